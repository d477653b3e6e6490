"""Where does a run go on? At the newest state that every rank can read: a snapshot in memory, else a checkpoint."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch.distributed as dist
from torch import Tensor

from .checkpoint.manifest import newest, read
from .checkpoint.snapshot import Slots, SnapshotError, committed
from .checkpoint.store import load
from .world import Worker


@dataclass(frozen=True)
class Restored:
    """The state that a run goes on from; its tensors are filled in place."""

    step: int  # updates made
    source: str  # "scratch", "snapshot" or "checkpoint"
    path: str
    host: Mapping[str, Any]


def restore(worker: Worker, checkpoints: Path, tensors: Mapping[str, Tensor], slots: Slots | None) -> Restored:
    """Fill the tensors from the newest state. Collective.

    Raises:
        CheckpointError: the newest checkpoint cannot be used; the sentence says why.
    """
    snapshot = None if slots is None else common_snapshot(worker)
    checkpoint = newest(checkpoints)
    if slots is not None and snapshot is not None and (checkpoint is None or snapshot >= read(checkpoint).step):
        return Restored(snapshot, "snapshot", str(worker.snapshots), slots.read(snapshot))
    if checkpoint is not None:
        host = load(checkpoint, tensors)
        return Restored(int(host["step"]), "checkpoint", str(checkpoint), host)
    return Restored(0, "scratch", "", {})


def open_slots(worker: Worker, tensors: Mapping[str, Tensor]) -> Slots | None:
    """Room for this rank's snapshots; None on every rank where one has none. Collective."""
    problem = ""
    slots = None
    try:
        slots = Slots(worker.snapshots, tensors) if worker.snapshots else None
    except (SnapshotError, OSError) as error:
        problem = str(error)
    problems = [""] * worker.world_size
    dist.all_gather_object(problems, problem)
    if not any(problems):
        return slots
    if worker.rank == 0:
        worker.tell("no_snapshots", reason=next(filter(None, problems)))
    return None


def common_snapshot(worker: Worker) -> int | None:
    """The newest step of which every rank holds a whole snapshot. Collective."""
    held: list[set[int]] = [set()] * worker.world_size
    dist.all_gather_object(held, set(committed(worker.snapshots)) if worker.snapshots else set())
    common = set.intersection(*held)
    return max(common, default=None)
