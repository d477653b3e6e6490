"""What must survive? Every tensor of a run by a name that no layout changes, as live references.

A checkpoint or snapshot of these tensors, with the number of updates made, is the whole run: the data's order, the
draws and the learning rate are functions of the step.
"""

from collections.abc import Mapping

from torch import Tensor, nn

from .parts import shaped_like
from .sharded import Sharded
from .solvers import Solver


class Live:
    """The tensors as they lie in memory: they are always up to date, and what is read into them holds at once."""

    def __init__(self, sharded: Sharded, solver: Solver) -> None:
        self.tensors: Mapping[str, Tensor] = tensors(sharded, solver)

    def fill(self) -> None:
        """Nothing to do."""

    def adopt(self) -> None:
        """Nothing to do."""


def tensors(sharded: Sharded, solver: Solver) -> dict[str, Tensor]:
    """ "model.<parameter>", "model.<buffer>", "optimizer.<parameter>.<state>" -> this rank's tensor.

    A DTensor stands for its whole tensor; a plain tensor is the same on every rank that holds the name.
    """
    found: dict[str, Tensor] = {f"model.{name}": p.detach() for name, p in sharded.parameters.items()}
    found |= {f"model.{name}": buffer for name, buffer in persistent_buffers(sharded.program).items()}
    for name, key, part in solver.state():
        found[f"optimizer.{name}.{key}"] = shaped_like(sharded.parameters[name], part)
    return found


def persistent_buffers(program: nn.Module) -> dict[str, Tensor]:
    """Buffers that belong to the model's state, by name."""
    return {name: x for name, x in program.state_dict(keep_vars=True).items() if not isinstance(x, nn.Parameter)}
