"""What came of one call into a pool of ranks? Results by rank, or one error that names the task and shows why."""

import time
from pathlib import Path
from typing import Any

from ..jobs.worker import DUMP_STACKS
from .failure import failure_block
from .group import Group
from .watch import Watch

LAST_WORDS = 0.3  # seconds that the other ranks get to report after the first failure
MAX_LINES = 60


class RankFailure(RuntimeError):
    """A task failed on some rank, or did not finish in time."""


class Call:
    """One task on one group."""

    def __init__(self, task: str, group: Group, logs: Path) -> None:
        self._task = task
        self._group = group
        self._logs = logs
        self._watch = Watch(sorted(group.alive), time.monotonic(), lambda rank: str(self._log(rank)))

    def finish(self, deadline: float) -> list[Any]:
        """Wait for every rank; nothing of the group is alive afterwards.

        Raises:
            RankFailure: some rank failed, died or was late.
        """
        self._listen(deadline)
        if self._group.alive and not self._watch.casualties:
            self._blame_late(deadline)
        if self._watch.casualties:
            self._listen(LAST_WORDS, after_failure=True)
            listen_to_the_end(self._group, self._watch)
            raise RankFailure(self._report())
        return [self._watch.results[rank] for rank in sorted(self._watch.results)]

    def _listen(self, seconds: float, after_failure: bool = False) -> None:
        until = time.monotonic() + seconds
        while self._group.alive and not self._watch.conclusive and (after_failure or not self._watch.casualties):
            message = self._group.next(until - time.monotonic())
            if message is None:
                return
            self._watch.note(message, time.monotonic())

    def _blame_late(self, deadline: float) -> None:
        late = sorted(self._group.alive)
        self._group.signal(DUMP_STACKS, late)
        time.sleep(LAST_WORDS)  # a signal has no answer; the stacks are in the logs by then
        for rank in late:
            self._watch.blame(rank, "late", f"not finished after {deadline:g} s")

    def _report(self) -> str:
        casualties = self._watch.casualties
        block = failure_block(f"{self._task} failed", casualties, max_lines=MAX_LINES)
        tails = [f"--- log of rank {one.rank}:\n{_tail(self._log(one.rank))}" for one in casualties[:4]]
        return "\n".join([block, *tails])

    def _log(self, rank: int) -> Path:
        return self._logs / f"rank-{rank}.log"


def listen_to_the_end(group: Group, watch: Watch) -> None:
    """SIGKILL a group; of what is still said only failures count, since the deaths are our own doing."""
    for message in group.kill():
        if message.kind == "failure":
            watch.note(message, 0.0)


def _tail(log: Path, lines: int = 25) -> str:
    try:
        return "\n".join(log.read_text(errors="replace").rstrip().split("\n")[-lines:])
    except FileNotFoundError:
        return "(nothing)"
