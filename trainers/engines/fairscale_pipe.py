"""How does FairScale run a pipeline? Its Pipe keeps all stages in one process, one device and one thread for each.

Pipe cuts a batch into micro-batches along dim 0 of every tensor, so the micro-batches of a step enter it end to end,
and the batch travels with what stands between two units. The terms' sums and counts come out as a row a micro-batch.
"""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ...models.entry import Entry
from ...models.program import Terms, take_apart
from ..layout import Layout
from ..pipeline_cut import chunk_of, stage_units
from ..terms import Batch, GradientSync, Passed, add, objective


class Feed:
    """What the stages of one step have in common beside their tensors: names, which tensors do not carry."""

    def __init__(self) -> None:
        self.batch: list[str] = []
        self.terms: list[str] = []
        self.told: Mapping[str, str] = {}


class Stage(nn.Module):
    """Consecutive units; from a micro-batch's tensors and the boundary before them to those behind them."""

    def __init__(self, program: nn.Module, feed: Feed) -> None:
        super().__init__()
        self.program, self.feed = program, feed

    def forward(self, tensors: tuple[Tensor, ...]) -> Tensor | tuple[Tensor, ...]:
        """(the batch's tensors, boundary), or a row [1, 2 x terms] of sums and counts."""
        samples = tensors[: len(self.feed.batch)]
        batch = dict(zip(self.feed.batch, samples, strict=True))
        result = take_apart(self.program(batch, *tensors[len(samples) :], **self.feed.told), ())
        if result.boundary:
            return (*samples, *result.boundary)
        self.feed.terms = list(result.terms)
        return torch.stack([x for pair in result.terms.values() for x in pair]).unsqueeze(0)


class FairScalePipe:
    """All stages of a model in this process."""

    def __init__(self, entry: Entry, config: Any, layout: Layout, program: nn.Module, device: torch.device) -> None:
        """Cut a whole Program; the stages share its parameters."""
        assert entry.units is not None
        paths = [unit.path for unit in entry.units(config)]
        self.feed = Feed()
        parts = [[paths[index] for index in units] for units in stage_units(entry, config, layout)]
        self.stages = nn.Sequential(*(Stage(chunk_of(program, paths, part), self.feed) for part in parts))
        self.device = device
        self.pipes: dict[int, nn.Module] = {}  # micro-batches of a step -> the Pipe that cuts so many

    def run(
        self,
        micro_batches: Sequence[Batch],
        sync: GradientSync,
        told: Mapping[str, str],
        weights: Mapping[str, float],
    ) -> Passed:
        """Forward and backward of a step."""
        passed, each = Passed(), self._forward(micro_batches, told)
        torch.stack([objective(terms, weights) for terms in each]).sum().backward()
        for terms in each:
            passed.terms = add(passed.terms, terms)
        return passed

    def evaluate(self, micro_batches: Sequence[Batch], told: Mapping[str, str]) -> Terms:
        """Forward alone."""
        total: Terms = {}
        for terms in self._forward(micro_batches, told):
            total = add(total, terms)
        return total

    def _forward(self, micro_batches: Sequence[Batch], told: Mapping[str, str]) -> list[Terms]:
        """The terms of each micro-batch; all have as many samples."""
        self.feed.batch, self.feed.told = sorted(micro_batches[0]), told
        whole = tuple(torch.cat([batch[name] for batch in micro_batches]) for name in self.feed.batch)
        rows = self._pipe(len(micro_batches))(whole)
        return [{name: (row[2 * i], row[2 * i + 1]) for i, name in enumerate(self.feed.terms)} for row in rows]

    def _pipe(self, chunks: int) -> nn.Module:
        from fairscale.nn.pipe import Pipe

        if chunks not in self.pipes:
            each, devices = [1] * len(self.stages), [self.device] * len(self.stages)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # it names torch's Pipe, which torch has dropped
                self.pipes[chunks] = Pipe(self.stages, each, devices=devices, chunks=chunks, checkpoint="never")
        return self.pipes[chunks]
