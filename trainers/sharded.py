"""What does a step work with, whatever the layout? One rank's part of a model, its forward and its backward."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ..models.axes import local
from ..models.entry import Entry
from ..models.program import Terms, take_apart
from .context import own_tokens
from .gradients import local_gradients, square_share
from .mesh import Mesh
from .terms import LOSS, Batch, GradientSync, Passed, Stages, add, objective


@dataclass(frozen=True)
class Sum:
    """Gradients that are partial after backward, each rank of a group holding a part of the sum."""

    parameters: tuple[nn.Parameter, ...]
    group: dist.ProcessGroup

    def finish(self) -> None:
        """Add the parts, bit-equally on every rank."""
        for parameter in self.parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        gradients = [local(p.grad) for p in self.parameters if p.grad is not None]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        dist.all_reduce(flat, group=self.group)
        for gradient, part in zip(gradients, flat.split([gradient.numel() for gradient in gradients]), strict=True):
            gradient.copy_(part.view_as(gradient))


@dataclass(frozen=True)
class Twin:
    """Two copies of a tied weight on one rank, which ZeRO gathers with different parts of the model."""

    owner: nn.Parameter  # the one that is updated and saved
    copy: nn.Parameter

    @torch.no_grad()
    def start(self) -> None:
        """Before a forward: the copy becomes equal."""
        local(self.copy).copy_(local(self.owner))

    def finish(self) -> None:
        """After the backward: the owner has the gradient of both."""
        if self.copy.grad is not None:
            if self.owner.grad is None:
                self.owner.grad = torch.zeros_like(self.owner)
            local(self.owner.grad).add_(local(self.copy.grad))


@dataclass(frozen=True)
class Sharded:
    """One rank's part of a model."""

    entry: Entry
    program: nn.Module
    mesh: Mesh
    parameters: Mapping[str, nn.Parameter]  # by the names of the whole model; a tied weight by its owner's name
    holders: Mapping[str, int]  # ranks of the world that hold the same elements as this rank
    sync: GradientSync
    pipeline: Stages | None
    twins: tuple[Twin, ...]
    sums: tuple[Sum, ...]  # of gradients that neither replicas nor ZeRO add up
    autocast: torch.dtype | None  # dtype of matrix products; None: fp32

    def run(self, micro_batches: Sequence[Batch], *, phase: str = "", weights: Mapping[str, float] = LOSS) -> Passed:
        """Forward and backward of one step: what it found on this rank, gradients summed over the data ranks.

        Terms stand on the ranks of the last pipeline stage only.

        Args:
            phase: name of the entry's phase.
            weights: of each term's sum in what is differentiated.
        """
        micro_batches = [self._own(batch) for batch in micro_batches]
        self.sync.zero()
        self.program.train()
        for twin in self.twins:
            twin.start()
        with self._precision():
            if self.pipeline:
                passed = self.pipeline.run(micro_batches, self.sync, _told(phase), weights)
            else:
                passed = self._accumulate(micro_batches, _told(phase), weights)
        self.sync.finish()
        for twin in self.twins:
            twin.finish()
        for part in self.sums:
            part.finish()
        return passed

    @torch.no_grad()
    def evaluate(self, micro_batches: Sequence[Batch], *, phase: str = "") -> Terms:
        """Forward alone, in evaluation mode."""
        self.program.eval()
        for twin in self.twins:
            twin.start()
        micro_batches = [self._own(batch) for batch in micro_batches]
        with self._precision():
            if self.pipeline:
                return self.pipeline.evaluate(micro_batches, _told(phase))
            terms: Terms = {}
            for batch in micro_batches:
                terms = add(terms, take_apart(self.program(batch, **_told(phase)), ()).terms)
            return terms

    def clear(self) -> None:
        """Drop the gradients."""
        self.sync.zero()

    def square(self, names: Sequence[str]) -> Tensor:
        """This rank's share of the named gradients' squared norm; their sum over the world is that of the whole, 0-dim.

        A parameter that took no part in the step gets a gradient of zeros.
        """
        holders = [self.holders[name] for name in names]
        return square_share(local_gradients([self.parameters[name] for name in names]), holders)

    def scale(self, names: Sequence[str], factor: float) -> None:
        """Multiply the named gradients."""
        if names:
            torch._foreach_mul_(list(self.parts(names).values()), factor)

    def parts(self, names: Sequence[str]) -> dict[str, Tensor]:
        """This rank's part of each named gradient."""
        return dict(zip(names, local_gradients([self.parameters[name] for name in names]), strict=True))

    def gradients(self, names: Sequence[str]) -> dict[str, Tensor]:
        """The named gradients that this rank has a part of; a DTensor stands for its whole. Collective."""
        found = {name: self.parameters[name].grad for name in names}
        return {name: gradient for name, gradient in found.items() if gradient is not None}

    def prescribe(self, make: Callable[[Tensor], Tensor]) -> None:
        """Set the gradient of every trained parameter to an elementwise function of it."""
        for parameter in self.parameters.values():
            if parameter.requires_grad:
                parameter.grad = torch.zeros_like(parameter)
                local(parameter.grad).copy_(make(local(parameter.detach())))

    def weights(self) -> dict[str, Tensor]:
        """The parameters that this rank has a part of; a DTensor stands for its whole. Collective."""
        return {name: parameter.detach() for name, parameter in self.parameters.items()}

    def _accumulate(
        self, micro_batches: Sequence[Batch], told: Mapping[str, str], weights: Mapping[str, float]
    ) -> Passed:
        passed = Passed()
        for index, batch in enumerate(micro_batches):
            self.sync.prepare(last=index == len(micro_batches) - 1)
            result = take_apart(self.program(batch, **told), weights)
            if (total := objective(result.terms, weights)).requires_grad:  # not where a phase only acts
                total.backward()
            passed.add(index, result)
        return passed

    def _own(self, batch: Batch) -> Batch:
        return own_tokens(batch, self.entry.context, self.mesh.axes.context)

    def _precision(self) -> AbstractContextManager[Any]:
        if self.autocast is None:
            return nullcontext()
        return torch.autocast(self.mesh.device.type, dtype=self.autocast)


def _told(phase: str) -> dict[str, str]:
    """How forward is told the phase: not at all where the entry has none."""
    return {"phase": phase} if phase else {}
