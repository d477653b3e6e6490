"""What does a rank say to the others? Collectives and messages, counted as they are asked for, with their bytes.

Counted are operations of torch.distributed and functional ones alike, each once, by the group that it is over. Bytes
are those of the tensors that this rank hands over: of the whole gradient in a reduction, of its own part in a gather.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

KINDS = {  # operation -> what it is called here, and which of its arguments is handed over
    "c10d::allreduce_": ("all_reduce", 0),
    "c10d::_allgather_base_": ("all_gather", 1),
    "c10d::allgather_": ("all_gather", 1),
    "c10d::_reduce_scatter_base_": ("reduce_scatter", 1),
    "c10d::alltoall_base_": ("all_to_all", 1),
    "c10d::broadcast_": ("broadcast", 0),
    "c10d::send": ("send", 0),
    "c10d::recv_": ("receive", 0),
    "_c10d_functional::all_reduce": ("all_reduce", 0),
    "_c10d_functional::all_gather_into_tensor": ("all_gather", 0),
    "_c10d_functional::reduce_scatter_tensor": ("reduce_scatter", 0),
    "_c10d_functional::all_to_all_single": ("all_to_all", 0),
}
SILENT = {"_c10d_functional::wait_tensor", "_c10d_functional::_wrap_tensor_autograd"}


@dataclass(frozen=True)
class Said:
    """One operation."""

    kind: str
    group: str  # name of the process group
    bytes: int


class Traffic(TorchDispatchMode):
    """Notes every operation that is asked for while it is entered: `with Traffic() as traffic:`.

    Raises:
        RuntimeError: an operation of an unknown kind.
    """

    def __init__(self) -> None:
        super().__init__()
        self.said: list[Said] = []

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Note one operation, and run it."""
        name = func.name().partition(".")[0]  # type: ignore[attr-defined]
        if name.partition("::")[0] in ("c10d", "_c10d_functional") and name not in SILENT:
            self.said.append(_said(name, args))
        return func(*args, **(kwargs or {}))

    def total(self, kind: str, group: dist.ProcessGroup | None = None) -> tuple[int, int]:
        """(how often, bytes) of a kind of operation, over one group or over all."""
        name = None if group is None else group.group_name
        found = [one.bytes for one in self.said if one.kind == kind and name in (None, one.group)]
        return len(found), sum(found)


def _said(name: str, args: tuple[Any, ...]) -> Said:
    if name not in KINDS:
        raise RuntimeError(f"{name} is a collective that is not counted yet")
    kind, place = KINDS[name]
    tensors = [x for x in tree_leaves(args[place]) if isinstance(x, Tensor)]
    return Said(kind, _group(args), sum(x.numel() * x.element_size() for x in tensors))


def _group(args: tuple[Any, ...]) -> str:
    """The name of the process group among an operation's arguments."""
    for argument in reversed(args):
        if isinstance(argument, torch.ScriptObject):
            try:
                return dist.ProcessGroup.unbox(argument).group_name
            except (RuntimeError, TypeError):
                continue  # a ReduceOp
    return next(argument for argument in reversed(args) if isinstance(argument, str))
