"""Where did the time of a run go? Every second of a rank's wall time gets one name.

Invariant: the seconds of all names sum to the wall time. A second that no event explains is "unexplained"; a pause in
which no job was live is no part of the wall time.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from .events import Event
from .history import ENDS, OWN_EVENTS, Attempt, History, own_spent

UNEXPLAINED = "unexplained"
RECOVERY = "recovery"  # from a death to the first new step
LOST = "lost work"  # steps that were taken back, and the one in flight when a worker died


@dataclass(frozen=True)
class Account:
    """Seconds by name; the names of a rank sum to the wall time of the sessions it lived in."""

    wall: float
    seconds: dict[str, float]  # mean over the ranks of each session
    ranks: dict[int, dict[str, float]]

    @property
    def unexplained(self) -> float:
        """Share of the wall time that no event explains, 0 to 1."""
        return self.seconds.get(UNEXPLAINED, 0.0) / self.wall if self.wall else 0.0


@dataclass(frozen=True)
class Session:
    """Attempts without a pause between them: one `run` or `resume` with the restarts it made."""

    attempts: frozenset[int]
    begin: float
    end: float


def account(record: History) -> Account:
    """Account for every session of a run."""
    wall, mean, ranks = 0.0, Seconds(), dict[int, Seconds]()
    for session in sessions(record.attempts):
        wall += session.end - session.begin
        spent = _by_rank(session, record)
        for rank, seconds in spent.items():
            ranks.setdefault(rank, Seconds()).add(seconds)
            mean.add(seconds, 1 / len(spent))
        if not spent:
            mean.add({"start-up": session.end - session.begin})
    return Account(wall, dict(mean), {rank: dict(seconds) for rank, seconds in ranks.items()})


class Seconds(defaultdict[str, float]):
    """Seconds by name, zero for a name that was never seen."""

    def __init__(self) -> None:
        super().__init__(float)

    def add(self, seconds: Mapping[str, float], factor: float = 1.0) -> None:
        """Add those of another."""
        for name, value in seconds.items():
            self[name] += value * factor


def sessions(attempts: Iterable[Attempt]) -> list[Session]:
    """Group attempts: a restart belongs to the session of the attempt before it."""
    found: list[list[Attempt]] = []
    for attempt in attempts:
        if found and attempt.continues:
            found[-1].append(attempt)
        else:
            found.append([attempt])
    return [
        Session(frozenset(one.number for one in group), group[0].begin, max(one.end for one in group))
        for group in found
    ]


def _by_rank(session: Session, record: History) -> dict[int, Seconds]:
    events = [event for event in record.events if event.attempt in session.attempts]
    spent = {}
    for rank in sorted({event.rank for event in events if event.rank is not None}):
        lost = {(step.attempt, step["step"]) for step in record.replayed.get(rank, ())}
        walk = Walk(session.begin)
        for event in events:
            if event.rank in (rank, None):
                walk.take(event, lost)
        walk.until(session.end)
        spent[rank] = walk.seconds
    return spent


class Walk:
    """Goes over a rank's events in time; every stretch between two points gets a name exactly once."""

    def __init__(self, begin: float) -> None:
        self.at = begin  # everything before it has its name
        self.name = "start-up"  # of the stretch that begins here, unless an event claims it
        self.recovering = False
        self.seconds = Seconds()

    def until(self, t: float, name: str = "") -> None:
        """Name the stretch from here to t."""
        if t > self.at:
            self.seconds[name or self.name] += t - self.at
            self.at = t

    def take(self, event: Event, lost: set[tuple[int, int]]) -> None:
        """Name the time up to an event, and decide what follows it."""
        match event.kind:
            case "step":
                self._step(event, (event.attempt, event["step"]) in lost)
            case kind if kind in OWN_EVENTS:
                self.until(event.t - event.get("seconds", 0.0))
                self.until(event.t, event.kind)
            case "phase":
                self.until(event.t)
                self._go(UNEXPLAINED if event["name"] == "train" else event["name"])
            case "death":
                self.until(event.t, RECOVERY if self.recovering else LOST)
                self.recovering = True
                self._go(RECOVERY)
            case "end" | "give_up":
                self.until(event.t)
                self.recovering = False
                self._go("shutdown")
            case kind if kind in ENDS or kind in ("start", "attempt"):
                self.until(event.t)

    def _go(self, name: str) -> None:
        self.name = RECOVERY if self.recovering else name

    def _step(self, event: Event, lost: bool) -> None:
        """A step tells its seconds and what they were spent on; what no word covers is unexplained."""
        self.until(event.t - event["seconds"])
        self.recovering = False
        length, spent = event.t - self.at, own_spent(event)
        if lost:
            self.until(event.t, LOST)
        elif length > 0:
            told = sum(spent.values())
            fits = min(1.0, length / told) if told else 0.0
            for name, seconds in spent.items():
                self.seconds[name] += seconds * fits
            self.seconds[UNEXPLAINED] += length - told * fits
            self.at = event.t
        self.name = UNEXPLAINED
