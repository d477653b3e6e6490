"""Where does DeepSpeed keep a rank's part of a parameter? As a piece of the flattened whole, in partitions of its own.

Under ZeRO-1 and 2 the parameters of a group are laid end to end and cut into as many partitions as there are ranks, so
a rank has a piece of some of them. Under ZeRO-3 every parameter is cut alone, its last piece padded.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

WEIGHT, GRADIENT = "weight", "gradient"  # what a parameter has beside its optimizer's states, which go by their names


class Fragments(ABC):
    """This rank's pieces of the parameters and of everything that is shaped like them."""

    def __init__(self, optimizer: Any, parameters: Mapping[str, nn.Parameter]) -> None:
        """Make the optimizer's states exist, by an update of zero gradients that changes nothing.

        Args:
            optimizer: DeepSpeed's, of one ZeRO stage.
            parameters: all of the model, trained or not.
        """
        self.optimizer, self.parameters = optimizer, parameters
        self.trained = {name: parameter for name, parameter in parameters.items() if parameter.requires_grad}
        self._materialise()

    @abstractmethod
    def flats(self) -> list[Tensor]:
        """What the rule updates."""

    @abstractmethod
    def shape(self, name: str) -> torch.Size:
        """Of a whole parameter."""

    @abstractmethod
    def start(self, name: str) -> int:
        """Where this rank's piece begins in the flattened parameter."""

    @abstractmethod
    def piece(self, name: str, what: str) -> Tensor | None:
        """This rank's elements of a parameter's weight, gradient or state, as they lie in memory; None: it has none.

        A gradient is the average over the ranks, and is there between backward and update.
        """

    @abstractmethod
    def spread(self) -> None:
        """Bring changed weights to where forward reads them. Collective."""

    @abstractmethod
    def clear(self) -> None:
        """Zero what gradients are left of the step before: a parameter may get none in this one."""

    def states(self) -> list[str]:
        """Names of the states that are shaped like their parameters."""
        flat = self.flats()[0]
        state = self.rule.state[flat]
        return sorted(key for key, x in state.items() if isinstance(x, Tensor) and x.shape == flat.shape)

    @property
    def rule(self) -> torch.optim.Optimizer:
        """The torch optimizer inside."""
        rule: torch.optim.Optimizer = self.optimizer.optimizer
        return rule

    def whole(self, name: str, what: str, owner: int | None = None) -> Tensor:
        """A whole tensor put together, on every rank or on its owner alone (of use there only). Collective.

        Args:
            what: WEIGHT, GRADIENT or a state's name.
        """
        piece, shape = self.piece(name, what), self.shape(name)
        flat = torch.zeros(shape.numel(), device=self.flats()[0].device)
        if piece is not None:
            mine = flat[self.start(name) :][: piece.numel()]
            mine.copy_(piece.flatten()[: mine.numel()])
        if owner is None:
            dist.all_reduce(flat)
        else:
            dist.reduce(flat, owner)
        return flat.view(shape)

    def take(self, name: str, what: str, whole: Tensor) -> None:
        """Copy this rank's piece out of a whole tensor."""
        if (piece := self.piece(name, what)) is not None:
            mine = whole.flatten()[self.start(name) :][: piece.numel()]
            piece.flatten()[: mine.numel()].copy_(mine)

    def set_updates(self, updates: int) -> None:
        """Continue as after so many updates (the bias correction of AdamW counts them)."""
        for state in self.rule.state.values():
            if "step" in state:
                state["step"] = torch.tensor(float(updates))

    def _materialise(self) -> None:
        groups = self.rule.param_groups
        usual = [(group["lr"], group["weight_decay"]) for group in groups]
        for group in groups:
            group["lr"], group["weight_decay"] = 0.0, 0.0  # SGD adds the decay to the gradient
        for index, flat in enumerate(self.flats()):
            kept = flat.grad
            flat.grad = torch.zeros_like(flat)
            self.optimizer._optimizer_step(index)
            flat.grad = kept
        for group, (lr, decay) in zip(groups, usual, strict=True):
            group["lr"], group["weight_decay"] = lr, decay
        self.set_updates(0)


class Partitions(Fragments):
    """ZeRO-1 and 2."""

    def flats(self) -> list[Tensor]:
        """One partition of each group."""
        return list(self.optimizer.single_partition_of_fp32_groups)

    def shape(self, name: str) -> torch.Size:
        """The parameter's own."""
        return self.parameters[name].shape

    def start(self, name: str) -> int:
        """A piece may begin anywhere."""
        mapping = getattr(self.parameters[name], "_hp_mapping", None)
        return 0 if mapping is None else int(mapping.lp_fragment_address.start)

    def piece(self, name: str, what: str) -> Tensor | None:
        """A part of the partition, where the parameter reaches into it."""
        parameter: Any = self.parameters[name]
        if name not in self.trained:
            return parameter.detach() if what == WEIGHT else None
        if (mapping := parameter._hp_mapping) is None:
            return None
        if what == GRADIENT:
            gradient: Tensor = mapping.get_lp_grad_fragment(parameter._index_in_param_group)
            return gradient
        flat, place = self.flats()[mapping.param_group_index], mapping.hp_fragment_address
        found: Tensor = flat if what == WEIGHT else self.rule.state[flat][what]
        return found.detach().narrow(0, place.start, place.numel)

    def whole(self, name: str, what: str, owner: int | None = None) -> Tensor:
        """Every rank has the whole of a frozen parameter."""
        if name not in self.trained:
            return self.parameters[name].detach().clone()
        return super().whole(name, what, owner)

    def clear(self) -> None:
        """None are."""

    def spread(self) -> None:
        """Every rank holds all weights."""
        self.optimizer.update_lp_params()


class Shards(Fragments):
    """ZeRO-3."""

    def flats(self) -> list[Tensor]:
        """One flat tensor of each sub-group."""
        return list(self.optimizer.fp32_partitioned_groups_flat)

    def shape(self, name: str) -> torch.Size:
        """DeepSpeed empties the parameter and remembers its shape."""
        shape: torch.Size = self.parameters[name].ds_shape  # type: ignore[attr-defined]
        return shape

    def start(self, name: str) -> int:
        """Pieces are of equal size."""
        return dist.get_rank() * int(self.parameters[name].ds_tensor.numel())  # type: ignore[attr-defined]

    def piece(self, name: str, what: str) -> Tensor | None:
        """A rank has a piece of everything; of a frozen parameter it is what forward gathers from."""
        parameter: Any = self.parameters[name]
        if name not in self.trained:
            return parameter.ds_tensor.data if what == WEIGHT else None
        if what == GRADIENT:
            found: Tensor = self.optimizer.get_local_fp32_grad_for_param(parameter)
        else:
            found = self.optimizer.get_local_fp32_param(parameter, None if what == WEIGHT else what)
        return found.detach()

    def clear(self) -> None:
        """DeepSpeed keeps them, and would take them for new ones."""
        for name in self.trained:
            if (piece := self.piece(name, GRADIENT)) is not None:
                piece.zero_()

    def spread(self) -> None:
        """Forward gathers from other memory than the rule updates."""
        for name in self.trained:
            parameter: Any = self.parameters[name]
            parameter.ds_tensor.data.copy_(self.piece(name, WEIGHT))
