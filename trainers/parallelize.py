"""How does a model become a sharded one? From outside, by one function, whose order matters:

1. build      every rank builds the same whole Program from the same seed;
2. cut        a pipeline stage drops the units it does not hold, while their names still stand;
3. place      modules that ask are told where they stand in the mesh;
4. split      tensor and expert parallel take their part before anything wraps it, so that ZeRO shards what is left;
5. recompute  inside ZeRO's hooks, so that a recomputed forward finds its parameters gathered;
6. zero       outermost, unit by unit; or, for replicas, buckets over the finished parameters.
"""

from collections.abc import Iterator, Mapping, Sequence
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
from .gradients import copies
from .layout import Layout, Place, refusal
from .mesh import Mesh, new_group
from .pipeline import Pipeline, keep_units, stage_units
from .replicate import GradientReducer
from .sharded import Sharded, Sum
from .tensor import partial_names, split_experts, split_layers
from .terms import GradientSync, NoSync
from .zero import shard_units


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
) -> Sharded:
    """Build an entry's Program and shard it as the mesh says. Collective.

    Args:
        seed: of the weights.
        tokens: tokens of one sample, for the shapes between pipeline stages.
        dtype, recompute, activations, debug: as in TrainOptions.

    Raises:
        ValueError: the entry cannot be split so; the sentence says why.
    """
    layout, compute = mesh.layout, torch.bfloat16 if dtype == "bf16" else None
    if reason := refusal(entry, config, layout) or layout.refusal(tokens):
        raise ValueError(reason)
    entry = replace(entry, tied=ties(entry, config))
    program = build_seeded(entry, config, seed).to(mesh.device)
    units = [unit.path for unit in entry.units(config)] if entry.units else []
    pipeline = None
    if layout.pipeline > 1:
        stage = stage_units(entry, config, layout)[mesh.place.pipeline]
        keep_units(program, units, stage)
        units = [units[i] for i in stage]
        between = compute if layout.shards > 1 else None  # autocast leaves the residual stream in fp32
        pipeline = Pipeline(program, mesh, stage, partial(_boundary, entry, config, layout.tokens(tokens), between))
    place(program, mesh)
    if axis := mesh.axis("tensor"):
        assert entry.tensor is not None
        split_layers(program, entry.tensor(config), axis, mesh.axes)
    experts = split_experts(program, entry.experts, mesh)
    _save_less([program.get_submodule(path) for path in units or [""]], recompute, activations)
    sync = _synchronise(entry, program, units, mesh, compute, experts)
    if debug:
        agreement = Agreement(mesh, dist.distributed_c10d._get_default_store())
        agreement.watch(program, watched(program, units))
        sync = Agreed(sync, agreement)
    parameters = _named(program, entry)
    tied = _tied_stages(entry, config, layout)
    return Sharded(
        entry=entry,
        program=program,
        mesh=mesh,
        parameters=parameters,
        holders={name: copies(p, layout) * len(tied.get(name, (0,))) for name, p in parameters.items()},
        sync=sync,
        pipeline=pipeline,
        sums=(
            *_token_sums(parameters, mesh, partial_names(program, entry, config)),
            *_tie_sums(parameters, mesh, tied),
            *_expert_sums(experts, mesh),
        ),
        autocast=None if layout.shards > 1 else compute,
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
    program: nn.Module,
    units: Sequence[str],
    mesh: Mesh,
    compute: torch.dtype | None,
    apart: Sequence[nn.Parameter],
) -> GradientSync:
    """ZeRO, replicas, or nothing to agree on; for all parameters but those `apart`, the split experts."""
    if mesh.layout.shards > 1:
        axis = mesh.axis("replicate", "shard")
        assert axis is not None
        return shard_units(program, _gathered(entry, units), axis, mesh.layout, compute, set(apart))
    group, experts = mesh.group("replicate"), {id(parameter) for parameter in apart}
    parameters = [p for p in program.parameters() if p.requires_grad]
    if group is None:
        return NoSync(parameters)
    return GradientReducer([p for p in parameters if id(p) not in experts], group, apart)


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


def _named(program: nn.Module, entry: Entry) -> dict[str, nn.Parameter]:
    """Parameters by their owner's name."""
    owner = {alias: name for name, alias in entry.tied}
    return {owner.get(name, name): parameter for name, parameter in program.named_parameters()}


def _tied_stages(entry: Entry, config: Any, layout: Layout) -> dict[str, list[int]]:
    """Pipeline stages that hold a copy of a tied weight of their own, for those weights that more than one holds."""
    if layout.pipeline == 1 or entry.units is None:
        return {}
    units, held = entry.units(config), stage_units(entry, config, layout)
    found: dict[str, set[int]] = {}
    for pair in entry.tied:
        for name in pair:
            unit = next(index for index, unit in enumerate(units) if name.startswith(f"{unit.path}."))
            found.setdefault(pair[0], set()).add(next(stage for stage, kept in enumerate(held) if unit in kept))
    return {owner: sorted(stages) for owner, stages in found.items() if len(stages) > 1}


def _token_sums(parameters: Mapping[str, nn.Parameter], mesh: Mesh, names: set[str]) -> Iterator[Sum]:
    """With sequence parallel each tensor rank has the gradients of its own tokens, between split layers."""
    found = tuple(p for name, p in parameters.items() if name in names and p.requires_grad)
    if mesh.axes.sequence and mesh.axes.tensor.group is not None and found:
        yield Sum(found, mesh.axes.tensor.group)


def _tie_sums(parameters: Mapping[str, nn.Parameter], mesh: Mesh, tied: Mapping[str, Sequence[int]]) -> Iterator[Sum]:
    """Each copy of a tied weight has the gradient of its own use, and all of them move by the sum. Collective."""
    for owner, stages in tied.items():
        group = new_group(mesh.layout, mesh.rank, partial(_meeting, stages))
        if group is not None:
            yield Sum((parameters[owner],), group)


def _meeting(stages: Sequence[int], place: Place) -> Place:
    """A place, those of the given pipeline stages being alike."""
    return replace(place, pipeline=stages[0]) if place.pipeline in stages else place


def _expert_sums(experts: Sequence[nn.Parameter], mesh: Mesh) -> Iterator[Sum]:
    """Ranks that hold the same experts each add the gradients of the tokens that came to them."""
    if experts and mesh.experts is not None and "replicate" in (mesh.experts.mesh_dim_names or ()):
        yield Sum(tuple(experts), mesh.experts["replicate"].get_group())
