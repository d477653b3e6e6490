"""What does train.compile change? Each unit's forward becomes compiled graphs (torch.compile, Inductor).

Inside recomputation and ZeRO's hooks, so that these see a unit as before; behind the tensor split, so that each rank
compiles what it computes. A unit is compiled where it is first used, once for each shape.
"""

from collections.abc import Sequence

import torch
from torch import nn

from ..models import draw_operator as draw_operator  # registers what a draw becomes in a graph
from ..models.entry import Entry
from .refusals import compile_refusal


def compile_units(entry: Entry, program: nn.Module, units: Sequence[str]) -> None:
    """Compile the units of an entry in place, or the network of one that has a network and a loss.

    Raises:
        ValueError: the entry cannot be compiled; the sentence says why.
    """
    if reason := compile_refusal(entry):
        raise ValueError(reason)
    from torch._inductor import config  # not at import: it takes seconds

    config.compile_threads = 1  # workers leave by os._exit, which would leave compiling processes behind
    for path in units or ["network"]:
        module = program.get_submodule(path)
        module.forward = torch.compile(module.forward, dynamic=False)
