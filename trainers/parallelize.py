"""How does a model become a sharded one? From outside, by one function, whose order matters:

1. build      every rank builds the same whole Program from the same seed;
2. cut        a pipeline stage drops the units it does not hold, while their names still stand;
3. tensor     linears are split before anything wraps them, so that ZeRO shards the split weights;
4. recompute  inside ZeRO's hooks, so that a recomputed forward finds its parameters gathered;
5. zero       outermost, unit by unit; or, for replicas, buckets over the finished parameters.
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.utils.checkpoint import checkpoint

from ..models.entry import Entry, Shape
from ..models.program import Terms, build, named_terms
from .gradients import copies
from .layout import Layout, refusal
from .mesh import Mesh
from .parts import local
from .pipeline import Pipeline, keep_units, stage_units
from .replicate import GradientReducer
from .tensor import split_layers
from .terms import Batch, GradientSync, NoSync, add
from .zero import shard_units


@dataclass(frozen=True)
class Sharded:
    """One rank's part of a model: what a step needs, whatever the layout."""

    program: nn.Module
    mesh: Mesh
    parameters: Mapping[str, nn.Parameter]  # by the names of the whole model; a tied weight by its owner's name
    holders: Mapping[str, int]  # ranks of the world that hold the same elements as this rank
    sync: GradientSync
    pipeline: Pipeline | None
    factor: float  # turns a reduced gradient into the sum over the data ranks
    autocast: torch.dtype | None  # dtype of the arithmetic where ZeRO does not cast the parameters
    tie: nn.Parameter | None = None  # this stage's copy of a weight that another stage holds too

    def run(self, micro_batches: Sequence[Batch]) -> Terms:
        """Forward and backward of one step: terms of this rank, gradients reduced over the data ranks.

        Terms stand on the ranks of the last pipeline stage only.
        """
        self.sync.zero()
        self.program.train()
        with self._precision():
            terms = self.pipeline.run(micro_batches, self.sync) if self.pipeline else self._accumulate(micro_batches)
        self.sync.finish()
        if self.tie is not None:
            _sum_over_ends(self.tie, self.mesh)
        return terms

    @torch.no_grad()
    def evaluate(self, micro_batches: Sequence[Batch]) -> Terms:
        """Forward alone, in evaluation mode."""
        self.program.eval()
        with self._precision():
            if self.pipeline:
                return self.pipeline.evaluate(micro_batches)
            terms: Terms = {}
            for batch in micro_batches:
                terms = add(terms, named_terms(self.program(batch)))
            return terms

    def _accumulate(self, micro_batches: Sequence[Batch]) -> Terms:
        terms: Terms = {}
        for index, batch in enumerate(micro_batches):
            self.sync.prepare(last=index == len(micro_batches) - 1)
            found = named_terms(self.program(batch))
            found["loss"][0].backward()
            terms = add(terms, found)
        return terms

    def _precision(self) -> AbstractContextManager[Any]:
        if self.autocast is None:
            return nullcontext()
        return torch.autocast(self.mesh.device.type, dtype=self.autocast)


def parallelize(
    entry: Entry, config: Any, mesh: Mesh, *, seed: int, tokens: int, dtype: str = "fp32", recompute: str = "none"
) -> Sharded:
    """Build an entry's Program and shard it as the mesh says. Collective.

    Args:
        seed: of the weights.
        tokens: tokens of one sample, for the shapes between pipeline stages.
        dtype, recompute: as in TrainOptions.

    Raises:
        ValueError: the entry cannot be split so; the sentence says why.
    """
    layout, compute = mesh.layout, torch.bfloat16 if dtype == "bf16" else None
    if reason := refusal(entry, config, layout):
        raise ValueError(reason)
    program = build_seeded(entry, config, seed).to(mesh.device)
    units = [unit.path for unit in entry.units(config)] if entry.units else []
    pipeline = None
    if layout.pipeline > 1:
        stage = stage_units(entry, config, layout)[mesh.place.pipeline]
        keep_units(program, units, stage)
        units = [units[i] for i in stage]
        between = compute if layout.shard > 1 else None  # autocast leaves the residual stream in fp32
        pipeline = Pipeline(program, mesh, partial(_boundary, entry, config, tokens, between))
    if axis := mesh.axis("tensor"):
        assert entry.tensor is not None
        split_layers(program, entry.tensor(config), axis)
    if recompute == "full":
        for path in units or [""]:
            _recompute(program.get_submodule(path))
    sync, factor = _synchronise(entry, program, units, mesh, compute)
    parameters, tie = _named(program, entry, layout)
    holders = {name: copies(p, layout) * (2 if p is tie else 1) for name, p in parameters.items()}
    autocast = None if layout.shard > 1 else compute
    return Sharded(program, mesh, parameters, holders, sync, pipeline, factor, autocast, tie)


def _boundary(
    entry: Entry, config: Any, tokens: int, compute: torch.dtype | None, samples: int
) -> list[tuple[Shape, torch.dtype]]:
    """Shapes and dtypes of the tensors between two stages for a micro-batch of so many samples."""
    assert entry.boundary is not None
    names = {"compute": compute or torch.float32}
    return [(shape, names.get(name) or getattr(torch, name)) for shape, name in entry.boundary(config, samples, tokens)]


def build_seeded(entry: Entry, config: Any, seed: int) -> nn.Module:
    """The whole Program with the weights that belong to a seed; the global generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build(entry, config)


def _recompute(module: nn.Module) -> None:
    """Keep only the module's inputs for backward (Chen et al. 2016). Draws are keyed: no generator state is saved."""
    forward = module.forward
    module.forward = partial(checkpoint, forward, use_reentrant=False, preserve_rng_state=False)


def _synchronise(
    entry: Entry, program: nn.Module, units: Sequence[str], mesh: Mesh, compute: torch.dtype | None
) -> tuple[GradientSync, float]:
    layout = mesh.layout
    if layout.shard > 1:
        axis = mesh.axis("replicate", "shard")
        assert axis is not None
        return shard_units(program, _gathered(entry, units), axis, layout.zero, compute), float(layout.data)
    group = mesh.group("replicate")
    parameters = list(program.parameters())
    return (NoSync(parameters), 1.0) if group is None else (GradientReducer(parameters, group), 1.0)


def _gathered(entry: Entry, units: Sequence[str]) -> list[list[str]]:
    """Units that are gathered together: each alone, but those that share a tied weight in one group."""
    groups = [[unit] for unit in units]
    for names in entry.tied:
        owners = [next((g for g in groups for u in g if name.startswith(f"{u}.")), None) for name in names]
        first, second = owners
        if first is not None and second is not None and first is not second:
            first.extend(second)
            groups.remove(second)
    return groups


def _named(program: nn.Module, entry: Entry, layout: Layout) -> tuple[dict[str, nn.Parameter], nn.Parameter | None]:
    """Parameters by their owner's name, and the stage's copy of a weight that the other end of the pipeline holds."""
    owner = {alias: name for name, alias in entry.tied}
    found: dict[str, nn.Parameter] = {}
    for name, parameter in program.named_parameters():
        found[owner.get(name, name)] = parameter
    if layout.pipeline == 1:
        return found, None
    ends = [(name, alias) for name, alias in entry.tied if name in found]
    if len(ends) > 1:
        raise ValueError("a pipeline shares at most one tied weight between its first and its last stage")
    shared = [name for name, alias in ends if not _holds_both(program, name, alias)]
    return found, found[shared[0]] if shared else None


def _holds_both(program: nn.Module, name: str, alias: str) -> bool:
    names = {n for n, _ in program.named_parameters(remove_duplicate=False)}
    return name in names and alias in names


def _sum_over_ends(parameter: nn.Parameter, mesh: Mesh) -> None:
    """Add the gradients of the first and the last stage's copies of one weight, bit-equally on both."""
    layout, place = mesh.layout, mesh.place
    other = 0 if place.pipeline else layout.pipeline - 1
    group = mesh.group("pipeline")
    assert group is not None and parameter.grad is not None
    mine = local(parameter.grad)
    theirs = torch.empty_like(mine)
    peer = dist.get_process_group_ranks(group)[other]
    exchange = [dist.P2POp(dist.isend, mine.contiguous(), peer, group), dist.P2POp(dist.irecv, theirs, peer, group)]
    for work in dist.batch_isend_irecv(exchange):
        work.wait()
    mine.add_(theirs)
