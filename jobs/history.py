"""What became of a run over all its attempts? Derived from its events alone, by rules without a clock or a disk.

Invariant: a step counts once. A resume at step s takes back every later step of the attempts before it; among what is
left the later attempt wins. What was taken back is kept apart as `replayed`: work that was paid for twice.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from .events import Event, in_order

ENDS = {"finished": "finished", "stopped": "stopped", "give_up": "failed"}  # supervisor's last word -> state
OWN_EVENTS = ("eval", "checkpoint")  # they tell their seconds themselves; the next step's seconds hold them too


@dataclass
class Attempt:
    """One try of a run."""

    number: int
    begin: float  # unix seconds
    end: float  # of its last event
    world_size: int | None = None
    layout: str = ""
    source: str = "scratch"  # what it started from: scratch, checkpoint or snapshot
    from_step: int = 0
    reached: int = 0  # last step any rank reported
    continues: bool = False  # a restart by the supervisor, not a person's resume
    deaths: list[Event] = field(default_factory=list)
    failures: list[Event] = field(default_factory=list)
    outcome: str = ""  # finished, stopped, failed, died; "" while open


@dataclass(frozen=True)
class History:
    """Events sorted by what they mean; every sequence is in order of time or of steps."""

    events: tuple[Event, ...]
    attempts: tuple[Attempt, ...]
    steps: dict[int, tuple[Event, ...]]  # rank -> its committed "step" events
    replayed: dict[int, tuple[Event, ...]]  # rank -> "step" events that a later attempt took back
    evals: tuple[Event, ...]  # committed, lowest rank that reports them
    outcome: str  # finished, stopped, failed, or "" where no last word was written

    @property
    def curve(self) -> tuple[Event, ...]:
        """The committed steps as the lowest rank that knows the loss tells them."""
        knowing = [rank for rank, steps in self.steps.items() if any(step.get("loss") is not None for step in steps)]
        return self.steps[min(knowing)] if knowing else ()

    @property
    def step(self) -> int:
        """Steps done that count."""
        return max((steps[-1]["step"] for steps in self.steps.values() if steps), default=0)

    @property
    def restarts(self) -> int:
        """Attempts that the supervisor began by itself after a failure."""
        return sum(attempt.continues for attempt in self.attempts)

    @property
    def steps_lost(self) -> int:
        """Steps that were computed and taken back, on the rank that lost most."""
        return max((len(steps) for steps in self.replayed.values()), default=0)

    def last(self, kind: str) -> Event | None:
        """The newest event of a kind."""
        return next((event for event in reversed(self.events) if event.kind == kind), None)

    def of(self, kind: str) -> list[Event]:
        """Every event of a kind."""
        return [event for event in self.events if event.kind == kind]


def history(events: Iterable[Event]) -> History:
    """Read a run's events; an empty run gives an empty history."""
    ordered = in_order(events)
    attempts = _attempts(ordered)
    resumed = _resumed(ordered)
    steps: dict[int, tuple[Event, ...]] = {}
    replayed: dict[int, tuple[Event, ...]] = {}
    for rank in sorted({event.rank for event in ordered if event.kind == "step" and event.rank is not None}):
        mine = [event for event in ordered if event.kind == "step" and event.rank == rank]
        steps[rank], replayed[rank] = commit(mine, resumed)
    return History(tuple(ordered), attempts, steps, replayed, _evals(ordered, resumed), _outcome(ordered))


def commit(reports: Iterable[Event], resumed: dict[int, int]) -> tuple[tuple[Event, ...], tuple[Event, ...]]:
    """Split one rank's reports that carry a "step" into those that count, by step, and those taken back.

    Args:
        resumed: attempt -> the step it went on from.
    """
    counted: dict[int, Event] = {}
    taken_back: list[Event] = []
    for report in sorted(reports, key=lambda event: (event.attempt, event.t)):
        if (earlier := counted.get(report["step"])) is not None:
            taken_back.append(earlier)
        counted[report["step"]] = report
    for step, report in list(counted.items()):
        if any(attempt > report.attempt and start < step for attempt, start in resumed.items()):
            taken_back.append(counted.pop(step))
    return tuple(counted[step] for step in sorted(counted)), tuple(taken_back)


def _resumed(events: list[Event]) -> dict[int, int]:
    return {event.attempt: event["step"] for event in events if event.kind == "resume"}


def _evals(events: list[Event], resumed: dict[int, int]) -> tuple[Event, ...]:
    found = [event for event in events if event.kind == "eval" and event.get("loss") is not None]
    ranks = [event.rank for event in found if event.rank is not None]
    return commit([event for event in found if event.rank == min(ranks)], resumed)[0] if ranks else ()


def _outcome(events: list[Event]) -> str:
    """The supervisor's last word, unless an attempt began after it; without a supervisor, a worker's "end"."""
    supervised = any(event.rank is None for event in events)
    for event in reversed(events):
        if event.kind in ENDS:
            return ENDS[event.kind]
        if event.kind == "end" and not supervised:
            return str(event.get("reason", "finished"))
        if event.kind in ("attempt", "start"):
            return ""
    return ""


def _attempts(events: list[Event]) -> tuple[Attempt, ...]:
    attempts: dict[int, Attempt] = {}
    restarts = {event.get("attempt") for event in events if event.kind == "restart"}
    for event in events:
        attempt = attempts.setdefault(event.attempt, Attempt(event.attempt, event.t, event.t))
        attempt.begin, attempt.end = min(attempt.begin, event.t), max(attempt.end, event.t)
        attempt.continues = event.attempt in restarts
        _note(attempt, event)
    return tuple(attempts[number] for number in sorted(attempts))


def _note(attempt: Attempt, event: Event) -> None:
    """Take one event into its attempt."""
    match event.kind:
        case "attempt" | "start":
            attempt.world_size = event.get("world_size", attempt.world_size)
            attempt.layout = str(event.get("layout", attempt.layout))
        case "resume":
            attempt.source, attempt.from_step = event["source"], event["step"]
        case "step":
            attempt.reached = max(attempt.reached, event["step"])
        case "death":
            attempt.deaths.append(event)
            attempt.outcome = "died"
        case "failure":
            attempt.failures.append(event)
        case "end":
            attempt.outcome = attempt.outcome or event.get("reason", "finished")
        case kind if kind in ENDS:
            attempt.outcome = ENDS[kind]


def state(record: History, live: bool) -> str:
    """running, finished, stopped, failed, or interrupted: open but nobody holds it.

    Args:
        live: whether a job holds the run's lock.
    """
    if live:
        return "running"
    return record.outcome or ("interrupted" if record.events else "new")


def summary_fields(record: History) -> dict[str, Any]:
    """What a listing tells of a run's course; None where it is not known, or a loss is not finite."""
    curve, evals = record.curve, record.evals
    return {
        "step": record.step,
        "loss": curve[-1].get("loss") if curve else None,
        "terms": last_terms(curve),
        "validation_loss": evals[-1]["loss"] if evals else None,
        "bits_per_byte": evals[-1].get("bits_per_byte") if evals else None,
        "tokens_per_second": throughput(curve),
        "attempts": len(record.attempts),
        "restarts": record.restarts,
        "steps_lost": record.steps_lost,
    }


def by_turn(steps: Iterable[Event]) -> dict[str, list[Event]]:
    """Steps of each of the entry's phases, in the order in which they first came; "" where it has none.

    What phases tell under one name (their losses) are different things: no line goes from one to another.
    """
    found: dict[str, list[Event]] = {}
    for step in steps:
        found.setdefault(step.get("turn") or "", []).append(step)
    return found


def terms(step: Event) -> dict[str, float]:
    """The named means that a step told besides its loss."""
    told = step.get("terms") or {}
    return {name: value for name, value in told.items() if name != "loss" and value is not None}


def last_terms(steps: Iterable[Event]) -> dict[str, float]:
    """The newest value of each term; a step tells only those of which it had an item."""
    found: dict[str, float] = {}
    for step in steps:
        found |= terms(step)
    return found


def own_spent(step: Event) -> dict[str, float]:
    """What a step's own seconds were spent on: without the evaluation or checkpoint that came before it."""
    return {name: seconds for name, seconds in step.get("spent", {}).items() if name not in OWN_EVENTS}


def own_seconds(step: Event) -> float:
    """Seconds of a step alone."""
    others = sum(step.get("spent", {}).get(name, 0.0) for name in OWN_EVENTS)
    return float(step["seconds"] - others)


def warm(steps: Iterable[Event]) -> list[Event]:
    """The steps whose seconds tell the pace: an attempt's first, which warms up, is left out where others follow."""
    timed = [step for step in steps if step.get("seconds")]
    first: dict[int, int] = {}
    for step in timed:
        first[step.attempt] = min(first.get(step.attempt, step["step"]), step["step"])
    return [step for step in timed if step["step"] != first[step.attempt]] or timed


def throughput(steps: Iterable[Event]) -> float | None:
    """Tokens a second: all tokens by all seconds of the warm steps."""
    timed = [step for step in warm(steps) if step.get("tokens")]
    seconds = sum(map(own_seconds, timed))
    return sum(step["tokens"] for step in timed) / seconds if seconds > 0 else None


@dataclass(frozen=True)
class Mfu:
    """Model FLOPs utilization, with what it was made of; it prints itself as formula and result."""

    step_flops: float  # model FLOPs of one step over all workers, forward and backward, without recomputation
    seconds: float  # of one step, mean over the warm steps
    workers: int
    peak_flops: float  # of one device at the run's dtype
    peak_source: str

    @property
    def value(self) -> float:
        """Share of the peak, 0 to 1."""
        return self.step_flops / (self.seconds * self.workers * self.peak_flops)

    def __str__(self) -> str:
        return (
            f"MFU {self.value:.1%} = {self.step_flops:.3g} FLOPs a step / ({self.seconds:.3g} s x {self.workers} x "
            f"{self.peak_flops:.3g} FLOP/s peak of {self.peak_source})"
        )


def mfu(record: History) -> Mfu | None:
    """The utilization, where an event "speed" told the work of a step and the device's peak; else None."""
    start, speed = record.last("start"), record.last("speed")
    timed = [own_seconds(step) for step in warm(record.curve)]
    if start is None or speed is None or not timed:
        return None
    seconds = sum(timed) / len(timed)
    return Mfu(speed["step_flops"], seconds, start["world_size"], speed["peak_flops"], speed["peak_source"])
