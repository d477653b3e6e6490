"""Does the torch-free record of an entry agree with the Program that is built from it? Checks that tests share."""

from collections.abc import Mapping

import torch
from shardwright.models.catalog import find
from shardwright.models.program import build
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode


def on_meta(name: str, preset: str) -> nn.Module:
    """The Program of a preset without its numbers."""
    entry = find(name)
    with torch.device("meta"):
        return build(entry, entry.presets[preset])


def check_record(name: str, preset: str) -> None:
    """Shapes, counts and units of a preset are those of the built model."""
    entry, program = find(name), on_meta(name, preset)
    config = entry.presets[preset]
    assert entry.shapes and entry.parameters
    built = {name: tuple(parameter.shape) for name, parameter in program.named_parameters()}
    assert entry.shapes(config) == built
    assert entry.parameters(config) == sum(parameter.numel() for parameter in program.parameters())
    units = entry.units(config) if entry.units else ()
    for unit in units:
        found = sum(parameter.numel() for parameter in program.get_submodule(unit.path).parameters())
        assert unit.parameters == found, unit.path
    assert not units or sum(unit.parameters for unit in units) == entry.parameters(config)


def counted_flops(name: str, preset: str, batch: Mapping[str, Tensor]) -> int:
    """FLOPs that torch counts in a forward in evaluation mode."""
    program = on_meta(name, preset).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        program({key: value.to("meta") for key, value in batch.items()})
    return counter.get_total_flops()
