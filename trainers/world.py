"""What is a worker process given? Its place in the world, its device and its three lines to the outside."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from .sink import Sink


@dataclass(frozen=True)
class Worker:
    """One rank of a running task. torch.distributed is initialised before a task gets it (also for one rank)."""

    rank: int
    world_size: int
    local_rank: int
    attempt: int  # how many times the run was started before
    device: torch.device
    tell: Sink  # reports an event; never blocks
    stop: Callable[[], str]  # "" or why this process was asked to stop ("stop", "preempted"); set by a signal handler
    snapshots: Path | None = None  # folder in shared memory for this rank's snapshots; None: take none
