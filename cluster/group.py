"""Who is alive in one attempt, and what did they say? The supervisor's view of the workers that a zygote forked."""

import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from ..jobs.assignment import Assignment
from .processes import is_running


class ZygoteDied(RuntimeError):
    """The process that forks the workers is gone; its workers died with it."""


@dataclass(frozen=True)
class Message:
    """A worker's event, or "halted" {signal} and "gone" {pid, code} from the zygote."""

    rank: int
    kind: str
    fields: Mapping[str, Any]


class Line(Protocol):
    """The line to a zygote."""

    def send(self, command: dict[str, Any]) -> None: ...
    def receive(self, timeout: float) -> dict[str, Any] | None: ...


class Group:
    """The workers of one attempt."""

    def __init__(self, line: Line, assignments: Sequence[Assignment]) -> None:
        """Fork them."""
        self._line = line
        self.alive = {assignment.rank for assignment in assignments}
        self.pids: dict[int, int] = {}  # by rank, once the zygote has forked them
        line.send({"do": "fork", "assignments": [assignment.to_json() for assignment in assignments]})

    def next(self, timeout: float) -> Message | None:
        """The next message, or None after `timeout` seconds.

        Raises:
            ZygoteDied: there is nobody left to speak.
        """
        until = time.monotonic() + timeout
        while (line := self._line.receive(max(0.0, until - time.monotonic()))) is not None:
            if line["kind"] != "forked":
                return self._read(line)
            self.pids = {int(rank): pid for rank, pid in line["pids"].items()}
        return None

    def signal(self, number: int, ranks: Sequence[int] | None = None) -> None:
        """Signal the living workers, or some of them; SIGKILL takes their children along."""
        self._line.send({"do": "signal", "signal": int(number), "ranks": None if ranks is None else list(ranks)})

    def kill(self, timeout: float = 30.0) -> list[Message]:
        """SIGKILL every worker and wait until the last is reaped; returns what was still said.

        Raises:
            ZygoteDied: some worker was not reaped in time.
        """
        said = []
        until = time.monotonic() + timeout
        try:
            self.signal(signal.SIGKILL)
            while self.alive and (message := self.next(until - time.monotonic())):
                said.append(message)
        except ZygoteDied:
            self.mourn()
        if self.alive:
            raise ZygoteDied(f"ranks {sorted(self.alive)} were killed but not reaped within {timeout:.0f} s")
        return said

    def mourn(self, timeout: float = 30.0) -> None:
        """The zygote is dead, and its workers die with it: wait until they are."""
        until = time.monotonic() + timeout
        self.alive = {rank for rank in self.alive if rank in self.pids}
        while self.alive and time.monotonic() < until:
            self.alive = {rank for rank in self.alive if is_running(self.pids[rank])}
            time.sleep(0.01)

    def _read(self, line: Mapping[str, Any]) -> Message:
        if line["kind"] == "told":
            return Message(line["rank"], line["line"]["kind"], line["line"])
        if line["kind"] == "gone":
            self.alive.discard(line["rank"])
        return Message(line["rank"], line["kind"], line)
