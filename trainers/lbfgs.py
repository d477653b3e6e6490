"""How does L-BFGS step where no rank holds a whole parameter? In coefficients of the vectors that it remembers.

Nocedal, "Updating Quasi-Newton Matrices with Limited Storage" (1980). The two-loop recursion needs nothing of its
vectors but their dot products. So each iteration sums one small matrix of these over the ranks, in float64 and every
element once, works out the direction as a combination, and each rank adds up its own part (Chen, Wang and Zhou,
"Large-scale L-BFGS using MapReduce", 2014). Without a line search, as torch.optim.LBFGS is by default.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping

import torch
from torch import Tensor, nn

from .groups import read_groups
from .options import OptimizerOptions
from .solvers import Evaluate, Evaluation, Part

CURVED = 1e-10  # least step times change of the gradient of a pair that is remembered
DOWNHILL = 1e-9  # least decrease that a direction promises
CHUNK = 2**18  # elements of one part that are in float64 at a time


class LBFGS:
    """A few iterations on the batch of each step; the memory goes on from a step to the next.

    Of each parameter it keeps the steps and changes of the gradient of the newest pairs, the last gradient, and the
    step that was made from there; zeros where there is none yet, so that the tensors alone tell where it stands.
    """

    def __init__(self, part: Part, options: OptimizerOptions) -> None:
        """Make room for the memory.

        Raises:
            ValueError: a group of parameters asks for a rate or decay of its own.
        """
        if any(group.lr != 1.0 or group.weight_decay is not None for group in read_groups(options.groups)):
            raise ValueError(
                "optimizer.groups: lbfgs moves all parameters along one direction; a group may only freeze"
            )
        self.part, self.history, self.iterations = part, options.history, options.iterations
        self.known = [f"{kind}.{age}" for kind in ("step", "change") for age in range(self.history)]
        self.names = [*self.known, "gradient", "moved"]
        self.memory = {name: {key: torch.zeros_like(part.leaf(name)) for key in self.names} for name in part.parameters}

    @property
    def parameters(self) -> Mapping[str, nn.Parameter]:
        """The trained parameters."""
        return self.part.parameters

    def step(self, evaluate: Evaluate, lr: float, names: Iterable[str]) -> Evaluation:
        """Iterate; the gradient is not clipped, and nothing decays."""
        names = list(names)
        found = first = evaluate()
        for iteration in range(self.iterations):
            if not found.usable or not self.iterate({name: found.gradients[name] for name in names}, lr):
                break
            if iteration + 1 < self.iterations:
                found = evaluate()
        return first

    @torch.no_grad()
    def iterate(self, gradients: Mapping[str, Tensor], lr: float) -> bool:
        """Move along one direction; False where none leads downhill."""
        products, total = self._products(gradients)
        new, direction = two_loop(products, self.history)
        downhill = bool(direction @ products[:, -1] < -DOWNHILL)
        rate = lr if products[-3, -3] > 0 else min(1.0, 1.0 / max(total, DOWNHILL)) * lr  # a first step: how far?
        for name, gradient in gradients.items():
            self._remember(name, gradient, direction * (rate * downhill), new)
            self.part.leaf(name).add_(self.memory[name]["moved"])
        return downhill

    def state(self) -> Iterator[tuple[str, str, Tensor]]:
        """The memory."""
        for name, memory in self.memory.items():
            for key, value in memory.items():
                yield name, key, value

    def set_updates(self, updates: Callable[[str], int]) -> None:
        """They are not counted."""

    def _vectors(self, name: str, gradient: Tensor) -> list[Tensor]:
        """Steps, changes, last gradient, step from there, gradient: what directions are combined of."""
        return [*(self.memory[name][key] for key in self.names), gradient]

    def _products(self, gradients: Mapping[str, Tensor]) -> tuple[Tensor, float]:
        """Dot products of all vectors with one another [n, n] in float64, and the sum of the gradient's sizes."""
        size = len(self.names) + 1
        shares = {}
        for name, gradient in gradients.items():
            share = torch.zeros(size * size + 1, dtype=torch.float64, device=gradient.device)
            for parts in zip(*(x.flatten().split(CHUNK) for x in self._vectors(name, gradient)), strict=True):
                rows = torch.stack(parts).double()
                share[:-1] += (rows @ rows.T).flatten()
                share[-1] += rows[-1].abs().sum()
            shares[name] = share
        whole = self.part.total(shares, (size * size + 1,)).cpu()
        return whole[:-1].view(size, size), whole[-1].item()

    def _remember(self, name: str, gradient: Tensor, step: Tensor, new: bool) -> None:
        """Take in this iteration: a new pair in the place of the oldest, the gradient, and the step from it."""
        memory = self.memory[name]
        moved = combine(self._vectors(name, gradient), step.tolist())
        if new:
            for kind in ("step", "change"):
                for age in range(self.history - 1):
                    memory[f"{kind}.{age}"].copy_(memory[f"{kind}.{age + 1}"])
            memory[f"step.{self.history - 1}"].copy_(memory["moved"])
            memory[f"change.{self.history - 1}"].copy_(gradient - memory["gradient"])
        memory["gradient"].copy_(gradient)
        memory["moved"].copy_(moved)


def two_loop(products: Tensor, history: int) -> tuple[bool, Tensor]:
    """Whether the last step makes a new pair, and the direction as coefficients of the vectors [n].

    Args:
        products: of the vectors in the order steps, changes (oldest first), last gradient, step from there, gradient.
    """
    unit = torch.eye(len(products), dtype=products.dtype)
    last, moved, gradient = unit[-3], unit[-2], unit[-1]
    pairs = [(unit[age], unit[history + age]) for age in range(history) if products[age, history + age] > 0]
    new = bool(moved @ products @ (gradient - last) > CURVED)
    if new:
        pairs = [*pairs, (moved, gradient - last)][-history:]
    direction, weights = -gradient, []
    for step, change in reversed(pairs):
        weights.append((step @ products @ direction) / (step @ products @ change))
        direction = direction - weights[-1] * change
    if pairs:
        step, change = pairs[-1]
        direction = direction * (step @ products @ change) / (change @ products @ change)
    for step, change in pairs:
        direction = direction + (weights.pop() - (change @ products @ direction) / (step @ products @ change)) * step
    return new, direction


def combine(vectors: list[Tensor], weights: list[float]) -> Tensor:
    """Their weighted sum."""
    result = torch.zeros_like(vectors[0])
    for vector, weight in zip(vectors, weights, strict=True):
        if weight:
            result.add_(vector, alpha=weight)
    return result
