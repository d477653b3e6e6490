"""A training run in miniature: a sum over ranks and steps, with snapshots, an agreed stop and faults on request."""

import os
import signal
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from shardwright.trainers.checkpoint.snapshot import Slots
from shardwright.trainers.restore import common_snapshot
from shardwright.trainers.world import Worker


def count(worker: Worker, steps: int, pause: float = 0.0, faults: list[dict[str, Any]] | None = None) -> Any:
    """Add up; returns what was summed, which shows whether a step was lost or done twice."""
    total = torch.zeros(3, dtype=torch.float64)
    slots = Slots(worker.snapshots, {"total": total}) if worker.snapshots else None
    start = common_snapshot(worker)
    if slots is not None and start is not None:
        slots.read(start)
    worker.tell("resume", step=start or 0, source="scratch" if start is None else "snapshot", path="")
    for step in range((start or 0) + 1, steps + 1):
        stop = torch.tensor([float(bool(worker.stop())), step * (worker.rank + 1.0)], dtype=torch.float64)
        for fault in faults or []:
            bring_about(fault, worker, step)
        dist.all_reduce(stop)
        total.mul_(1.01).add_(stop[1])
        if slots is not None:
            slots.write(step, {})
        worker.tell("step", step=step, loss=float(stop[1]), seconds=pause)
        if stop[0]:
            worker.tell("end", step=step, reason="stopped")
            return "stopped"
        time.sleep(pause)
    return total.tolist()


def bring_about(fault: dict[str, Any], worker: Worker, step: int) -> None:
    """A fault {"rank", "step", "attempts", "kind"}: a signal's name, "error", "sleep" or "deaf"."""
    if worker.rank not in fault["ranks"] or step != fault["step"] or worker.attempt not in fault["attempts"]:
        return
    if fault["kind"] == "error":
        raise ArithmeticError("the planted fault")
    if fault["kind"] == "sleep":
        time.sleep(600)
    elif fault["kind"] == "deaf":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        time.sleep(600)
    else:
        os.kill(os.getpid(), signal.Signals[fault["kind"]])


def stay(worker: Worker, folder: str) -> None:
    """Leave a mark and live on."""
    Path(folder, str(os.getpid())).touch()
    dist.barrier()
    time.sleep(600)
