"""How does a model become a sharded one? From outside, by one function, whose order matters:

1. build      every rank builds the same whole Program from the same seed, and freezes what a group of the job says;
2. cut        a pipeline stage drops the units it does not hold, while their names still stand;
3. place      modules that ask are told where they stand in the mesh;
4. split      tensor and expert parallel take their part before anything wraps it, so that ZeRO shards what is left;
5. compile    what each rank computes, without what follows;
6. recompute  inside ZeRO's hooks, so that a recomputed forward finds its parameters gathered;
7. chunks     where a rank of a pipeline holds several parts of the model, each becomes a module of its own;
8. zero       outermost, unit by unit; or, for replicas, buckets over the finished parameters.
"""

from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from ..models.entry import Entry, Shape, boundary_before, ties
from ..models.program import build
from .activations import keep_bytes
from .activations import recompute as recompute_unit
from .agreement import Agreed, Agreement, watched
from .compilation import compile_units
from .gradients import copies
from .groups import Group, freeze
from .layout import Layout, Place
from .legal import refusal
from .mesh import Mesh, new_group
from .phases import check_phases
from .pipeline import Pipeline
from .pipeline_cut import chunk_of, keep_units, part_twins, rank_units
from .pipeline_order import SCHEDULES, splits_backward
from .refusals import saving_refusal
from .replicate import GradientReducer
from .sharded import Sharded, Sum, Twin
from .tensor import partial_names, split_experts, split_layers
from .terms import GradientSync, NoSync, each_chunk
from .zero import shard_units

COMPUTE = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


def parallelize(
    entry: Entry,
    config: Any,
    mesh: Mesh,
    *,
    seed: int,
    tokens: int,
    dtype: str = "fp32",
    recompute: str = "none",
    activations: str = "exact",
    debug: bool = False,
    groups: Sequence[Group] = (),
    compiled: bool = False,
) -> Sharded:
    """Build an entry's Program and shard it as the mesh says. Collective.

    Args:
        seed: of the weights.
        tokens: tokens of one sample, for the shapes between pipeline stages.
        dtype, recompute, activations, debug: as in TrainOptions.
        groups: of the optimizer's parameters, some of them frozen.
        compiled: as TrainOptions.compile.

    Raises:
        ValueError: the entry cannot be split or compiled so, or a group or a phase fits no parameter; the sentence
            says why.
    """
    layout, compute = mesh.layout, COMPUTE[dtype]
    if reason := refusal(entry, config, layout) or layout.refusal(tokens):
        raise ValueError(reason)
    if reason := saving_refusal(entry, recompute) or saving_refusal(entry, activations):
        raise ValueError(reason)
    entry = replace(entry, tied=ties(entry, config))
    program = build_seeded(entry, config, seed).to(mesh.device)
    freeze(groups, _by_owner(program, entry, ()))
    check_phases(entry.phases, _by_owner(program, entry, ()))
    paths = [unit.path for unit in entry.units(config)] if entry.units else []
    parts = rank_units(entry, config, layout, mesh.place.pipeline) if layout.pipeline > 1 else [range(len(paths))]
    keep_units(program, paths, {index for part in parts for index in part})
    units = [[paths[index] for index in part] for part in parts]  # of each chunk
    held = [path for part in units for path in part]
    twins = part_twins(program, entry, units) if layout.shards > 1 else []
    place(program, mesh)
    if axis := mesh.axis("tensor"):
        assert entry.tensor is not None
        split_layers(program, entry.tensor(config), axis, mesh.axes)
    experts = split_experts(program, entry.experts, mesh)
    if compiled:
        compile_units(entry, program, held)
    _save_less([program.get_submodule(path) for path in held or [""]], recompute, activations)
    chunks = [chunk_of(program, held, part) for part in units] if len(units) > 1 else [program]
    pipeline = None
    if layout.pipeline > 1:
        between = compute if layout.shards > 1 else None  # autocast leaves the residual stream in fp32
        kinds = partial(_boundary, entry, config, layout.tokens(tokens), between)
        # a compiled unit gives all its gradients at once, and only once
        split = not compiled and splits_backward(SCHEDULES[layout.schedule], layout.shards, recompute)
        pipeline = Pipeline(chunks, parts, mesh, kinds, split=split)
    sync = _synchronise(entry, chunks, units, mesh, compute, experts)
    if debug:
        agreement = Agreement(mesh, dist.distributed_c10d._get_default_store())
        agreement.watch(program, watched(program, held))
        sync = Agreed(sync, agreement)
    named = dict(program.named_parameters(remove_duplicate=False))
    parameters = _by_owner(program, entry, {named[copied] for _, copied in twins})
    tied = _tied_ranks(entry, config, layout)
    return Sharded(
        entry=entry,
        program=program,
        mesh=mesh,
        parameters=parameters,
        holders={name: copies(p, layout) * len(tied.get(name, (0,))) for name, p in parameters.items()},
        sync=sync,
        pipeline=pipeline,
        twins=tuple(Twin(named[first], named[copied]) for first, copied in twins),
        sums=(
            *_token_sums(parameters, mesh, partial_names(program, entry, config)),
            *_tie_sums(parameters, mesh, tied),
            *_expert_sums(experts, mesh),
        ),
        autocast=compute,
    )


def build_seeded(entry: Entry, config: Any, seed: int) -> nn.Module:
    """The whole Program with the weights that belong to a seed; the global generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build(entry, config)


def place(program: nn.Module, mesh: Mesh) -> None:
    """Tell every module that asks where it stands."""
    for module in program.modules():
        if hasattr(module, "axes"):
            module.axes = mesh.axes  # type: ignore[assignment]


def _boundary(
    entry: Entry, config: Any, tokens: int, compute: torch.dtype | None, samples: int, unit: int
) -> list[tuple[Shape, torch.dtype]]:
    """Shapes and dtypes of the tensors that reach a unit from another stage, for a micro-batch of so many samples."""
    names = {"compute": compute or torch.float32}
    between = boundary_before(entry, config, samples, tokens, unit)
    return [(shape, names.get(name) or getattr(torch, name)) for shape, name in between]


def _save_less(units: Sequence[nn.Module], how: str, activations: str) -> None:
    """Keep less of each unit for backward.

    Raises:
        ValueError: int8 activations of what is computed again anyway.
    """
    if activations == "int8" and how != "none":
        raise ValueError(f'train.activations = "int8" keeps what train.recompute = "{how}" computes again; choose one')
    for unit in units:
        if how != "none":
            recompute_unit(unit, how)
        elif activations == "int8":
            keep_bytes(unit)


def _synchronise(
    entry: Entry,
    chunks: Sequence[nn.Module],
    units: Sequence[Sequence[str]],
    mesh: Mesh,
    compute: torch.dtype | None,
    apart: Sequence[nn.Parameter],
) -> GradientSync:
    """ZeRO, replicas, or nothing to agree on; for all parameters but those `apart`, the split experts."""
    experts, syncs = set(apart), list[GradientSync]()
    if mesh.layout.shards > 1:
        axis = mesh.axis("replicate", "shard")
        assert axis is not None
        for chunk, part in zip(chunks, units, strict=True):
            syncs.append(shard_units(chunk, _gathered(entry, part), axis, mesh.layout, compute, experts))
        return each_chunk(syncs)
    group, trained = mesh.group("replicate"), _apart(chunks)
    if group is None:
        return NoSync([p for own in trained for p in own])
    for own in trained:
        syncs.append(GradientReducer([p for p in own if p not in experts], group, [p for p in own if p in experts]))
    return each_chunk(syncs)


def _apart(chunks: Sequence[nn.Module]) -> list[list[nn.Parameter]]:
    """The trained parameters of each chunk; one that two of them use belongs to the first, whose backward ends last."""
    seen: set[nn.Parameter] = set()
    parts = []
    for chunk in chunks:
        parts.append([p for p in chunk.parameters() if p.requires_grad and p not in seen])
        seen.update(parts[-1])
    return parts


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


def _by_owner(program: nn.Module, entry: Entry, copied: Container[nn.Parameter]) -> dict[str, nn.Parameter]:
    """Parameters by their owner's name, without copies that follow another one on this rank."""
    owner = {alias: name for name, alias in entry.tied}
    return {owner.get(name, name): p for name, p in program.named_parameters() if p not in copied}


def _tied_ranks(entry: Entry, config: Any, layout: Layout) -> dict[str, list[int]]:
    """Ranks of a pipeline that hold a copy of a tied weight, for those weights that more than one rank holds."""
    if layout.pipeline == 1 or entry.units is None:
        return {}
    units = entry.units(config)
    held = [{i for part in rank_units(entry, config, layout, rank) for i in part} for rank in range(layout.pipeline)]
    found: dict[str, set[int]] = {}
    for pair in entry.tied:
        for name in pair:
            unit = next(index for index, unit in enumerate(units) if name.startswith(f"{unit.path}."))
            found.setdefault(pair[0], set()).add(next(rank for rank, kept in enumerate(held) if unit in kept))
    return {owner: sorted(ranks) for owner, ranks in found.items() if len(ranks) > 1}


def _token_sums(parameters: Mapping[str, nn.Parameter], mesh: Mesh, names: set[str]) -> Iterator[Sum]:
    """With sequence parallel each tensor rank has the gradients of its own tokens, between split layers."""
    found = tuple(p for name, p in parameters.items() if name in names and p.requires_grad)
    if mesh.axes.sequence and mesh.axes.tensor.group is not None and found:
        yield Sum(found, mesh.axes.tensor.group)


def _tie_sums(parameters: Mapping[str, nn.Parameter], mesh: Mesh, tied: Mapping[str, Sequence[int]]) -> Iterator[Sum]:
    """Each copy of a tied weight has the gradient of its own use, and all of them move by the sum. Collective."""
    for owner, stages in tied.items():
        group = new_group(mesh.layout, mesh.rank, partial(_meeting, stages))
        if group is not None and parameters[owner].requires_grad:
            yield Sum((parameters[owner],), group)


def _meeting(stages: Sequence[int], place: Place) -> Place:
    """A place, those of the given pipeline stages being alike."""
    return replace(place, pipeline=stages[0]) if place.pipeline in stages else place


def _expert_sums(experts: Sequence[nn.Parameter], mesh: Mesh) -> Iterator[Sum]:
    """Ranks that hold the same experts each add the gradients of the tokens that came to them."""
    if experts and mesh.experts is not None and "replicate" in (mesh.experts.mesh_dim_names or ()):
        yield Sum(tuple(experts), mesh.experts["replicate"].get_group())
