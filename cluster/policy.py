"""A group of ranks failed: what now? A pure function of what was seen; it decides and never acts.

A failure that the job itself brings about comes again: the same error at the same step twice ends the run, however
many restarts are left. A kill or a stop from outside may repeat.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from ..jobs.spec import RecoveryOptions
from .failure import Casualty, first_cause

OUTSIDE = ("signal 9 ", "signal 15 ", "stopped", "hung", "lost")  # causes that do not lie in the job


@dataclass(frozen=True)
class Stand:
    """A step from which a run can go on."""

    step: int
    source: str  # scratch, checkpoint or snapshot


@dataclass(frozen=True)
class Restart:
    """Start the next attempt."""

    stand: Stand


@dataclass(frozen=True)
class GiveUp:
    """End the run as failed."""

    reason: str


SCRATCH = Stand(0, "scratch")


def decide(
    failures: Sequence[Sequence[Casualty]], snapshot: int | None, checkpoint: int | None, recovery: RecoveryOptions
) -> Restart | GiveUp:
    """What follows the last of several failed attempts.

    Args:
        failures: the casualties of each attempt that failed since the run was started, oldest first.
        snapshot: the newest step that all ranks hold in shared memory.
        checkpoint: the step of the newest checkpoint.
        recovery: the job's own options.
    """
    causes = [first_cause(casualties) for casualties in failures]
    if len(causes) > 1 and _same(causes[-1], causes[-2]):
        return GiveUp(f"step {causes[-1].step} failed twice in the same way ({causes[-1].cause})")
    if len(failures) > recovery.max_restarts:
        return GiveUp(f"recovery.max_restarts = {recovery.max_restarts} is used up")
    return Restart(newest(snapshot, checkpoint))


def newest(snapshot: int | None, checkpoint: int | None) -> Stand:
    """The latest step to go on from; a snapshot is preferred, since it loads faster."""
    if snapshot is not None and snapshot >= (checkpoint or 0):
        return Stand(snapshot, "snapshot")
    return Stand(checkpoint, "checkpoint") if checkpoint is not None else SCRATCH


def _same(one: Casualty, other: Casualty) -> bool:
    inside = not one.cause.startswith(OUTSIDE)
    return inside and (one.cause, one.message, one.step) == (other.cause, other.message, other.step)
