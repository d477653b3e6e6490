"""Which update rule runs, and on what? On each rank's own part of every parameter.

The rules here are elementwise, so a shard's update is the shard of the whole update; working on local tensors avoids
the cost of DTensor dispatch in every operation.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..models.axes import local
from .groups import group_of, read_groups
from .options import OptimizerOptions


class ShardedOptimizer:
    """A torch optimizer over the local parts of the trained parameters; its state exists from the start."""

    def __init__(self, options: OptimizerOptions, parameters: Mapping[str, nn.Parameter]) -> None:
        self.parameters = {name: parameter for name, parameter in parameters.items() if parameter.requires_grad}
        self.leaves = {name: self.leaf(parameter) for name, parameter in self.parameters.items()}
        self.rule = self.wrap(build_rule(options, decay_groups(options, self.leaves, self.parameters)))
        self._materialise()

    def leaf(self, parameter: nn.Parameter) -> Tensor:
        """What the rule updates of a parameter."""
        return local(parameter.detach())

    def wrap(self, rule: torch.optim.Optimizer) -> Any:
        """The rule, or what an engine makes of it."""
        return rule

    def apply(self) -> None:
        """Let the rule update the leaves that have a gradient."""
        self.rule.step()

    def step(self, lr: float, names: Iterable[str] | None = None) -> None:
        """Update the named parameters, or all, from their gradients at a learning rate."""
        for name in self.leaves if names is None else names:
            leaf, parameter = self.leaves[name], self.parameters[name]
            assert parameter.grad is not None, f"{name} has no gradient"
            self._follow(leaf, local(parameter.detach()))
            leaf.grad = local(parameter.grad)
        for group in self.rule.param_groups:
            group["lr"] = lr * group["factor"]
        self.apply()
        for leaf in self.leaves.values():
            leaf.grad = None  # or the gradients' memory would live on after the step has cleared them

    def state(self) -> Iterator[tuple[str, str, Tensor]]:
        """(parameter's name, state's name, this rank's part) of every state that is shaped like its parameter."""
        for name, leaf in self.leaves.items():
            for key, value in sorted(self.rule.state[leaf].items()):
                if isinstance(value, Tensor) and value.shape == leaf.shape and key != "step":
                    yield name, key, value

    def set_updates(self, updates: Callable[[str], int]) -> None:
        """Continue as after so many updates of each named parameter (the bias correction of AdamW counts them)."""
        for name, leaf in self.leaves.items():
            if "step" in self.rule.state[leaf]:
                self.rule.state[leaf]["step"] = torch.tensor(float(updates(name)))

    @staticmethod
    def _follow(leaf: Tensor, current: Tensor) -> None:
        """fully_shard may move a padded shard to other memory at its first use: move with it."""
        if leaf.data_ptr() != current.data_ptr():
            leaf.set_(current)  # type: ignore[call-overload]

    def _materialise(self) -> None:
        """Make every state exist, by an update that changes nothing, so that a checkpoint can load into it."""
        decay = [group["weight_decay"] for group in self.rule.param_groups]
        for group in self.rule.param_groups:
            group["weight_decay"] = 0.0  # SGD adds it to the gradient, and so to the momentum
            group["lr"] = 0.0
        for leaf in self.leaves.values():
            leaf.grad = torch.zeros_like(leaf)
        self.apply()
        self.set_updates(lambda _: 0)
        for group, value in zip(self.rule.param_groups, decay, strict=True):
            group["weight_decay"] = value
        for leaf in self.leaves.values():
            leaf.grad = None


def decay_groups(
    options: OptimizerOptions, leaves: Mapping[str, Tensor], wholes: Mapping[str, Tensor] | None = None
) -> list[dict[str, object]]:
    """Parameter groups of one learning rate and one decay; vectors do not decay, unless a group of the job says so.

    Args:
        leaves: what the optimizer updates; wholes: the parameters they are parts of, where they are parts.
    """
    groups, found = read_groups(options.groups), dict[tuple[float, float], list[Tensor]]()
    for name, whole in (wholes or leaves).items():
        group = group_of(groups, name)
        usual = options.weight_decay if whole.ndim >= 2 else 0.0
        decay = usual if group.weight_decay is None else group.weight_decay
        found.setdefault((group.lr, decay), []).append(leaves[name])
    return [
        {"params": params, "weight_decay": decay, "factor": lr, "lr": options.lr * lr}
        for (lr, decay), params in found.items()
    ]


def build_rule(options: OptimizerOptions, groups: list[dict[str, object]]) -> torch.optim.Optimizer:
    """The torch optimizer that the options name (AdamW: Loshchilov and Hutter 2019).

    Raises:
        ValueError: they name a solver, whose update is not made element by element.
    """
    if options.name not in ("adamw", "sgd"):
        raise ValueError(f"optimizer.name = {options.name!r} is a solver of its own, no elementwise rule (adamw, sgd)")
    if options.name == "adamw":
        return torch.optim.AdamW(groups, lr=options.lr, betas=options.betas, eps=options.eps, fused=True)
    return torch.optim.SGD(groups, lr=options.lr, momentum=options.momentum, foreach=True)
