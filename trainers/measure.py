"""How many bytes do a rank's tensors take, now and at most? Counted storage by storage, to check the formulas with.

Every storage is counted that an operation reads or writes: gathered parameters, gradients, reduce buffers and
activations among them, each once however many tensors view it. What a library allocates for itself is not seen.
"""

import time
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ..models.entry import Entry
from .clock import Clock
from .estimate import available_for_worker
from .mesh import Mesh
from .options import OptimizerOptions
from .parallelize import parallelize
from .solvers import build_solver
from .step import Step
from .terms import Batch, GradientSync

PATIENCE = 0.05  # seconds in which gloo's own thread lets go of what the last collectives used
BEGIN, BETWEEN, AFTER = "begin", "between two micro-batches", "after the step"


@dataclass(frozen=True)
class Mark:
    """Bytes at a named moment."""

    name: str
    live: int
    peak: int  # the most since the mark before


class Ledger(TorchDispatchMode):
    """Counts the bytes of all tensors that operations touch while it is entered: `with Ledger() as ledger:`.

    It costs tens of microseconds an operation: for plans and tests, not for training. Enter it before the model is
    built, or the tensors that nothing has touched yet are missing.
    """

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self.marks: list[Mark] = []
        self._storages: dict[int, tuple[weakref.ref[torch.UntypedStorage], int]] = {}

    def mark(self, name: str) -> Mark:
        """Note the bytes of this moment and start a new peak."""
        time.sleep(PATIENCE)
        self._settle()
        mark = Mark(name, self.live, self.peak)
        self.marks.append(mark)
        self.peak = self.live
        return mark

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run one operation and count what it touched."""
        self._settle()
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves((args, kwargs, result)):
            if isinstance(leaf, torch.Tensor):
                self._count(leaf._local_tensor if isinstance(leaf, DTensor) else leaf)
        return result

    def _count(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key not in self._storages:
            self._storages[key] = (weakref.ref(storage, lambda _: self._forget(key)), 0)
        self._resize(key, storage.nbytes())

    def _settle(self) -> None:
        """fully_shard frees and makes gathered parameters by resizing their storage, which is no operation."""
        for key, (reference, before) in list(self._storages.items()):
            storage = reference()
            if storage is not None and (size := storage.nbytes()) != before:
                self._resize(key, size)

    def _resize(self, key: int, size: int) -> None:
        reference, before = self._storages[key]
        if size != before:
            self._storages[key] = (reference, size)
            self.live += size - before
            self.peak = max(self.peak, self.live)

    def _forget(self, key: int) -> None:
        _, size = self._storages.pop(key)
        self.live -= size


class Marking:
    """A gradient synchronisation that marks the ledger between two micro-batches of a step."""

    def __init__(self, sync: GradientSync, ledger: Ledger) -> None:
        self.sync, self.ledger = sync, ledger
        self.began = False

    def zero(self) -> None:
        """Clear the gradients; a step begins."""
        self.sync.zero()
        self.began = False

    def prepare(self, last: bool, chunk: int = 0) -> None:
        """Announce a backward; all but a step's first one have a micro-batch before them."""
        if self.began:
            self.ledger.mark(BETWEEN)
        self.began = True
        self.sync.prepare(last, chunk)

    def finish(self) -> None:
        """Return once every gradient is reduced."""
        self.sync.finish()


@dataclass(frozen=True)
class Measured:
    """Bytes of one rank in a step that is not its first."""

    held: int  # between two micro-batches; 0 where a step has one
    rest: int  # after the step
    peak: int


def measure_step(
    entry: Entry,
    config: Any,
    mesh: Mesh,
    optimizer: OptimizerOptions,
    batches: Sequence[Sequence[Batch]],
    **building: Any,
) -> Measured:
    """Train a fresh model for as many steps as there are batches, on the CPU, and count the last one. Collective.

    Args:
        batches: for each step this rank's micro-batches; at least two steps.
        building: further keywords of `parallelize`.
    """
    with Ledger() as ledger:
        sharded = parallelize(entry, config, mesh, **building)
        sharded = replace(sharded, sync=Marking(sharded.sync, ledger))
        step = Step(sharded, build_solver(sharded, optimizer, clip=1.0), lambda _: optimizer.lr)
        for index, micro_batches in enumerate(batches):
            ledger.mark(BEGIN)
            copies = [{name: value.clone() for name, value in batch.items()} for batch in micro_batches]
            step(index, copies, False, Clock())
            del copies
        ledger.mark(AFTER)
    names = [mark.name for mark in ledger.marks]
    last = ledger.marks[len(names) - names[::-1].index(BEGIN) :]
    return Measured(
        held=max((mark.live for mark in last if mark.name == BETWEEN), default=0),
        rest=last[-1].live,
        peak=max(mark.peak for mark in last),
    )


def worker_bytes(device: torch.device, workers: int) -> int | None:
    """Bytes that each of this machine's workers may use: a GPU's free memory, or a share of the CPU's; None if unknown.

    Collective, and equal on every rank: the least that any of them sees, for all must choose the same micro-batch.
    """
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else available_for_worker(workers)
    least = torch.tensor(-1 if free is None else free, device=device)
    dist.all_reduce(least, op=dist.ReduceOp.MIN)
    return None if least < 0 else int(least)
