"""What is known of a group of ranks? Only what they said and what the zygote saw; no clock and no process of its own.

A rank ends as a result or as a casualty, never both. Casualties are kept in the order in which they were seen.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from .failure import Casualty, name_exit
from .group import Message

BUILDING = 10.0  # before its first step a rank may be silent that many times longer: it builds, packs, loads
SLOW_STEPS = 5.0  # later it may be silent for that many times its longest step


@dataclass
class Progress:
    """Where a rank is."""

    heard: float  # the clock at its last sign of life
    host: str = ""
    phase: str = ""
    step: int = 0
    longest: float = 0.0  # seconds of its longest step; 0: none yet


class Watch:
    """The state of one attempt."""

    def __init__(self, ranks: Sequence[int], now: float, log_of: Callable[[int], str]) -> None:
        self.results: dict[int, Any] = {}
        self._progress = {rank: Progress(now) for rank in ranks}
        self._casualties: dict[int, Casualty] = {}
        self._log_of = log_of

    @property
    def casualties(self) -> list[Casualty]:
        """In the order in which they were seen."""
        return list(self._casualties.values())

    @property
    def finished(self) -> bool:
        """Whether every rank has a result."""
        return len(self.results) == len(self._progress)

    @property
    def step(self) -> int:
        """The last step that any rank reported."""
        return max(progress.step for progress in self._progress.values())

    @property
    def conclusive(self) -> bool:
        """Whether nothing that is worth waiting for can follow: a rank died silently, or all have spoken.

        After an exception the others are heard: they may have failed alike, or it may be the echo of a death.
        """
        spoken = len(self.results) + len(self._casualties) == len(self._progress)
        return bool(self._casualties) and (spoken or any(not one.traceback for one in self.casualties))

    def note(self, message: Message, now: float) -> None:
        """Take in what a rank said or what the zygote saw of it."""
        progress, fields = self._progress[message.rank], message.fields
        progress.heard = now
        match message.kind:
            case "start":
                progress.host = fields["host"]
            case "phase":
                progress.phase = fields["name"]
            case "resume":
                progress.step = fields["step"]
            case "step":
                progress.step = fields["step"]
                progress.longest = max(progress.longest, fields.get("seconds") or 0.0, 1e-9)
            case "result":
                self.results[message.rank] = fields["value"]
            case "failure":
                self._casualties.setdefault(message.rank, Casualty.from_failure(fields, self._log_of(message.rank)))
            case "halted":
                self.blame(message.rank, "stopped", f"signal {fields['signal']}")
            case "gone" if message.rank not in self.results:
                self.blame(message.rank, name_exit(fields["code"]))

    def blame(self, rank: int, cause: str, message: str = "") -> None:
        """Count a rank as a casualty, unless it is one."""
        progress = self._progress[rank]
        casualty = Casualty(
            rank,
            cause,
            progress.host,
            phase=progress.phase,
            step=progress.step,
            message=message,
            log=self._log_of(rank),
        )
        self._casualties.setdefault(rank, casualty)

    def silent(self, now: float, heartbeat: float) -> list[int]:
        """Ranks that gave no sign of life for too long.

        Args:
            now: the clock.
            heartbeat: seconds of silence that are allowed between two steps, unless its steps take long.
        """
        return [
            rank
            for rank, progress in self._progress.items()
            if rank not in self.results and now - progress.heard > patience(progress, heartbeat)
        ]


def patience(progress: Progress, heartbeat: float) -> float:
    """Seconds of silence that are allowed to a rank."""
    return max(heartbeat, SLOW_STEPS * progress.longest) if progress.longest else BUILDING * heartbeat
