"""What came of one call into a pool of ranks? Results by rank, or one error that names the task and shows why."""

import signal
import time
from pathlib import Path
from typing import Any

from ..jobs.worker import DUMP_STACKS
from .failure import Casualty, failure_block
from .group import Group, Message

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
        self._ranks = sorted(group.alive)
        self._results: dict[int, Any] = {}
        self._casualties: dict[int, Casualty] = {}
        self._phases: dict[int, str] = {}

    def finish(self, deadline: float) -> list[Any]:
        """Wait for every rank; nothing of the group is alive afterwards.

        Raises:
            RankFailure: some rank failed, died or was late.
        """
        until = time.monotonic() + deadline
        while self._group.alive and not self._casualties:
            message = self._group.next(until - time.monotonic())
            if message is None:
                self._blame_late(deadline)
            else:
                self._note(message)
        if self._casualties:
            self._hear_last_words()
            raise RankFailure(self._report())
        return [self._results[rank] for rank in self._ranks]

    def _note(self, message: Message) -> None:
        if message.kind == "result":
            self._results[message.rank] = message.fields["value"]
        elif message.kind == "phase":
            self._phases[message.rank] = message.fields["name"]
        elif message.kind == "failure":
            self._casualties[message.rank] = Casualty.from_failure(message.fields, self._log(message.rank))
        elif message.kind == "halted":
            self._blame(message.rank, "stopped")
        elif message.kind == "gone" and message.rank not in self._results:
            self._blame(message.rank, name_exit(message.fields["code"]))

    def _blame(self, rank: int, cause: str, message: str = "") -> None:
        phase = self._phases.get(rank, "")
        self._casualties.setdefault(rank, Casualty(rank, cause, phase=phase, message=message, log=self._log(rank)))

    def _blame_late(self, deadline: float) -> None:
        late = sorted(self._group.alive)
        self._group.signal(DUMP_STACKS, late)
        time.sleep(LAST_WORDS)  # a signal has no answer; the stacks are in the logs by then
        for rank in late:
            self._blame(rank, "late", f"not finished after {deadline:g} s")

    def _hear_last_words(self) -> None:
        until = time.monotonic() + LAST_WORDS
        while self._group.alive and (message := self._group.next(until - time.monotonic())):
            self._note(message)
        for message in self._group.kill():
            if message.kind == "failure":
                self._note(message)

    def _report(self) -> str:
        block = failure_block(f"{self._task} failed", list(self._casualties.values()), max_lines=MAX_LINES)
        tails = [f"--- log of rank {rank}:\n{_tail(self._logs / f'rank-{rank}.log')}" for rank in self._casualties]
        return "\n".join([block, *tails[:4]])

    def _log(self, rank: int) -> str:
        return str(self._logs / f"rank-{rank}.log")


def name_exit(code: int) -> str:
    """ "exit status 1" or "signal 9 (SIGKILL)", from a negative number."""
    if code >= 0:
        return f"exit status {code}"
    return f"signal {-code} ({signal.Signals(-code).name})"


def _tail(log: Path, lines: int = 25) -> str:
    try:
        return "\n".join(log.read_text(errors="replace").rstrip().split("\n")[-lines:])
    except FileNotFoundError:
        return "(nothing)"
