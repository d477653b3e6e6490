"""How do the weights move in a step? A solver evaluates the objective at the current weights, and changes them.

An optimizer evaluates once and follows the gradient. Another solver may evaluate more often (L-BFGS), or take what the
Program itself proposes, where no gradient exists. Whatever it does, it works on this rank's part of each parameter, and
what it needs of whole parameters (norms, dot products) it asks of `Part.total`, which counts every element once.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor, nn

from ..models.axes import local
from ..models.entry import Shape, load_object
from .optimizers import ShardedOptimizer
from .options import OptimizerOptions
from .sharded import Sharded


@dataclass(frozen=True)
class Evaluation:
    """The objective over a global batch at the current weights. Scalars are equal on every rank."""

    loss: float  # the objective
    terms: dict[str, float]  # mean of each named term
    count: float  # items of the objective's first term
    norm: float  # of the mean objective's whole gradient, before clipping
    gradients: Mapping[str, Tensor] = field(default_factory=dict)  # this rank's part of each, in parameter.grad
    update: Mapping[str, Tensor] = field(default_factory=dict)  # what a rule without gradients adds, whole tensors
    stop: bool = False  # some rank was asked to stop
    usable: bool = True  # False: the gradient was not finite in fp16, so nothing may move


class Evaluate(Protocol):
    """Forward and backward of a step's micro-batches at the current weights. Collective over the world."""

    def __call__(self, clip: float = 0.0) -> Evaluation:
        """The evaluation, its gradients scaled down to a norm of at most `clip` (0: as they are)."""


class Solver(Protocol):
    """What changes the weights; every rank calls it alike."""

    @property
    def parameters(self) -> Mapping[str, nn.Parameter]:
        """What it may change, by name."""

    def step(self, evaluate: Evaluate, lr: float, names: Iterable[str]) -> Evaluation:
        """Change the named parameters; the first evaluation that it made."""

    def state(self) -> Iterator[tuple[str, str, Tensor]]:
        """(parameter's name, state's name, this rank's part) of every state, each shaped like its parameter's part."""

    def set_updates(self, updates: Callable[[str], int]) -> None:
        """Continue as after so many updates of each named parameter, its state restored."""


@dataclass(frozen=True)
class Part:
    """What a solver works on: one rank's part of a model."""

    sharded: Sharded

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        """The trained parameters by the names of the whole model."""
        return {name: p for name, p in self.sharded.parameters.items() if p.requires_grad}

    def leaf(self, name: str) -> Tensor:
        """This rank's elements of a parameter, as they lie in memory now: a change of them changes the parameter."""
        return local(self.sharded.parameters[name].detach())

    def total(self, shares: Mapping[str, Tensor], shape: Shape = ()) -> Tensor:
        """Sums over all elements of the named parameters, in float64. Collective over the world.

        Args:
            shares: for each parameter the sums over this rank's elements, of one shape.
        """
        mesh = self.sharded.mesh
        whole = torch.zeros(shape, dtype=torch.float64, device=mesh.device)
        for name, share in shares.items():
            whole += share.to(whole.device, whole.dtype) / self.sharded.holders[name]
        mesh.sum(whole)
        return whole


class Descent:
    """An optimizer as a solver: one evaluation, clipped, and one update."""

    def __init__(self, optimizer: ShardedOptimizer, clip: float) -> None:
        self.optimizer, self.clip = optimizer, clip

    @property
    def parameters(self) -> Mapping[str, nn.Parameter]:
        """The trained parameters."""
        return self.optimizer.parameters

    def step(self, evaluate: Evaluate, lr: float, names: Iterable[str]) -> Evaluation:
        """Follow the gradient, if there is one."""
        found = evaluate(self.clip)
        if found.usable:
            self.optimizer.step(lr, names)
        return found

    def state(self) -> Iterator[tuple[str, str, Tensor]]:
        """The optimizer's."""
        return self.optimizer.state()

    def set_updates(self, updates: Callable[[str], int]) -> None:
        """Its bias corrections count them."""
        self.optimizer.set_updates(updates)


class Rule:
    """Adds what the Program proposes under "update", such as a perceptron's rule; nothing is differentiated.

    The proposal is added as it is: the size of its step is the Program's, no learning rate scales it.

    Raises:
        ValueError: the model is split or sharded; a proposal is about whole parameters.
    """

    def __init__(self, part: Part, options: OptimizerOptions) -> None:
        self.part = part
        if part.sharded.mesh.layout.world_size > 1:
            raise ValueError(f"{part.sharded.entry.name} proposes its updates itself, one after the other: one worker")

    @property
    def parameters(self) -> Mapping[str, nn.Parameter]:
        """Every parameter, whether or not it could be differentiated."""
        return self.part.sharded.parameters

    def step(self, evaluate: Evaluate, lr: float, names: Iterable[str]) -> Evaluation:
        """Add the proposal.

        Raises:
            ValueError: the Program proposed nothing, or for parameters that there are not.
        """
        found = evaluate()
        if not found.update or found.update.keys() - self.parameters.keys():
            known, got = sorted(self.parameters), sorted(found.update)
            raise ValueError(f'the Program proposed "update" of {got}; a rule without gradients changes {known}')
        for name, change in found.update.items():
            self.part.leaf(name).add_(change)
        return found

    def state(self) -> Iterator[tuple[str, str, Tensor]]:
        """None."""
        return iter(())

    def set_updates(self, updates: Callable[[str], int]) -> None:
        """They are not counted."""


SOLVERS = {"lbfgs": f"{__package__}.lbfgs:LBFGS"}  # optimizer.name -> a solver that is no elementwise rule


def build_solver(sharded: Sharded, options: OptimizerOptions, clip: float) -> Solver:
    """The solver that the entry or the job names, "module:name" of a callable (part, options) -> Solver.

    Args:
        clip: largest norm of the gradient, of the optimizers that follow it.
    """
    if named := sharded.entry.solver or SOLVERS.get(options.name):
        made: Solver = load_object(named)(Part(sharded), options)
        return made
    return Descent(ShardedOptimizer(options, sharded.parameters), clip)
