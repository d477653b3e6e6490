"""Which units does each rank of a pipeline hold, and what runs some of them alone? The cut of a Program."""

from collections.abc import Container, Sequence
from copy import copy
from typing import Any

from torch import nn

from ..models.entry import Entry
from .layout import Layout
from .pipeline_order import SCHEDULES, cut


def stage_units(entry: Entry, config: object, layout: Layout) -> list[range]:
    """Which units each virtual stage holds, balanced by their parameters."""
    assert entry.units is not None
    return cut([unit.parameters for unit in entry.units(config)], layout.pipeline * layout.chunks)


def rank_units(entry: Entry, config: object, layout: Layout, rank: int) -> list[range]:
    """Which units each chunk of one rank of the pipeline holds."""
    schedule, stages = SCHEDULES[layout.schedule], stage_units(entry, config, layout)
    return [stages[schedule.stage(rank, layout.pipeline, chunk)] for chunk in range(schedule.chunks)]


def keep_units(program: nn.Module, paths: Sequence[str], kept: Container[int]) -> None:
    """Remove, in place, the units that are held elsewhere; forward passes over them."""
    for index, path in enumerate(paths):
        if index in kept:
            continue
        above, _, name = path.rpartition(".")
        parent = program.get_submodule(above)
        if isinstance(parent, nn.ModuleDict):
            del parent[name]
        else:
            setattr(parent, name, None)


def chunk_of(program: nn.Module, held: Sequence[str], kept: Sequence[str]) -> nn.Module:
    """A Program that runs some of the units that a rank holds.

    It shares the units and all tensors with the whole one; only the modules above them are its own.

    Args:
        held: paths of all units of the rank; kept: of those in the chunk.
    """
    chunk = _above(program, "", held)
    keep_units(chunk, held, {index for index, path in enumerate(held) if path in kept})
    return chunk


def part_twins(program: nn.Module, entry: Entry, units: Sequence[Sequence[str]]) -> list[tuple[str, str]]:
    """Give every chunk a copy of its own of a weight that several share: (name of the first, name of a copy) of each.

    ZeRO gathers the chunks at different times.

    Args:
        units: paths, chunk by chunk.
    """
    pairs = []
    for names in _tied_names(entry):
        uses = [[name for name in names if any(name.startswith(f"{unit}.") for unit in part)] for part in units]
        first, *others = [found for found in uses if found] or [[]]
        for found in others:
            weight = program.get_parameter(first[0])
            copied = nn.Parameter(weight.detach().clone(), weight.requires_grad)
            for path, _, name in (name.rpartition(".") for name in found):
                setattr(program.get_submodule(path), name, copied)
            pairs.append((first[0], found[0]))
    return pairs


def _tied_names(entry: Entry) -> list[list[str]]:
    """The names of each tied weight, its owner's first."""
    names: dict[str, list[str]] = {}
    for owner, alias in entry.tied:
        names.setdefault(owner, [owner]).append(alias)
    return list(names.values())


def _above(module: nn.Module, path: str, units: Sequence[str]) -> nn.Module:
    """A copy of the modules above the units."""
    copied = copy(module)
    copied.__dict__ = {name: _apart(value) for name, value in module.__dict__.items()}
    for name, child in copied._modules.items():
        inside = f"{path}{name}."
        if child is not None and any(unit.startswith(inside) for unit in units):
            copied._modules[name] = _above(child, inside, units)
    return copied


def _apart(value: Any) -> Any:
    """Modules, parameters and hooks are registered in dicts."""
    return copy(value) if isinstance(value, dict) else value
