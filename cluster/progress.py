"""How far is a run, and how are its ranks? One state that events go into.

The state is a function of the events alone: no clock, no disk.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import fmean

from ..jobs.events import Event
from ..jobs.history import ENDS, OWN_EVENTS, own_seconds, terms
from ..jobs.report.numbers import NONE, duration, fixed

WINDOW = 20  # steps over which pace and time left are taken


@dataclass
class Rank:
    """What one worker last told."""

    heard: float  # unix seconds of its last event
    condition: str = "starting"  # starting, alive, dead, restarting, done
    phase: str = ""
    step: int = 0


@dataclass(frozen=True)
class Note:
    """An event that is worth a line."""

    t: float
    text: str
    attempt: int
    urgent: bool = False


@dataclass
class State:
    """A run as its events tell it so far."""

    total: int | None = None  # steps of the whole run
    step: int = 0
    loss: float | None = None
    lr: float | None = None
    grad_norm: float | None = None
    validation: float | None = None
    bits_per_byte: float | None = None
    attempt: int = 0
    restarts: int = 0
    outcome: str = ""  # finished, stopped or failed; "" while it goes on
    items: str = "tokens"
    ranks: dict[int, Rank] = field(default_factory=dict)
    turn: str = ""  # phase of the last step; "" where the entry has none
    terms: dict[str, float] = field(default_factory=dict)  # newest value of each term besides the loss
    curves: dict[str, list[tuple[float, float]]] = field(default_factory=dict)  # turn -> (step, loss) that count
    recent: deque[Event] = field(
        default_factory=lambda: deque(maxlen=WINDOW)
    )  # steps of this attempt, without its first
    notes: list[Note] = field(default_factory=list)
    warm: bool = False  # whether this attempt has made its first step

    @property
    def curve(self) -> list[tuple[float, float]]:
        """(step, loss) of the steps that count; of the first of several phases, whose losses are different things."""
        return next(iter(self.curves.values()), [])

    @property
    def restarting(self) -> bool:
        """Whether the supervisor is about to start an attempt by itself."""
        return any(rank.condition == "restarting" for rank in self.ranks.values())

    @property
    def tokens_per_second(self) -> float | None:
        """The pace of the recent steps."""
        seconds = sum(map(own_seconds, self.recent))
        return sum(step.get("tokens", 0) for step in self.recent) / seconds if seconds > 0 else None

    @property
    def seconds_left(self) -> float | None:
        """Of training, at the recent pace with its evaluations and checkpoints."""
        if self.total is None or not self.recent:
            return None
        return max(0, self.total - self.step) * fmean(step["seconds"] for step in self.recent)

    def update(self, event: Event) -> None:
        """Take one event."""
        if event.rank is not None:
            self._hear(event, event.rank)
        take: Callable[[Event], None] | None = getattr(self, f"_take_{event.kind}", None)
        if take is not None:
            take(event)
        elif event.kind in ENDS:
            self._finish(event)

    def _hear(self, event: Event, number: int) -> None:
        rank = self.ranks.setdefault(number, Rank(event.t))
        rank.heard = event.t
        match event.kind:
            case "phase":
                rank.phase = event["name"]
            case "resume":
                rank.step = event["step"]
            case "step":
                rank.step, rank.condition, rank.phase = event["step"], "alive", rank.phase or "train"
            case "end":
                rank.condition, rank.phase = "done", event.get("reason", "")
            case "failure":
                rank.condition = "dead"
            case kind if kind in OWN_EVENTS:
                rank.condition = "alive"

    def _speaks(self, event: Event) -> bool:
        """Ranks agree on what a step found; the lowest speaks for all."""
        return event.rank == min(self.ranks, default=None)

    def _note(self, event: Event, words: str, urgent: bool = False) -> None:
        safe = "".join(letter if letter.isprintable() else " " for letter in words)  # a terminal obeys the others
        self.notes.append(Note(event.t, safe, event.attempt, urgent))

    def _take_attempt(self, event: Event) -> None:
        self.attempt, self.outcome = event.attempt, ""
        self.recent.clear()
        self.warm, again = False, self.restarting
        size = event.get("world_size") or len(self.ranks)
        self.ranks = {rank: Rank(event.t, "restarting" if again else "starting") for rank in range(size)}
        layout = event.get("layout")
        self._note(event, f"attempt {event.attempt}: {size} workers" + (f", {layout}" if layout else ""))

    def _take_resume(self, event: Event) -> None:
        self.total = event.get("steps") or self.total
        if self._speaks(event):
            self.step = event["step"]
            self.curves = {
                turn: [point for point in points if point[0] <= self.step] for turn, points in self.curves.items()
            }
            if event["source"] != "scratch":
                self._note(event, f"goes on from the {event['source']} of step {self.step:,}")

    def _take_micro_batch(self, event: Event) -> None:
        if self._speaks(event):
            self._note(event, f"micro-batch {event['size']} (estimated: {event.get('estimate', NONE)})")

    def _take_step(self, event: Event) -> None:
        if not self._speaks(event):
            return
        if self.warm:
            self.recent.append(event)
        self.warm = True
        self.step, self.loss = event["step"], event.get("loss")
        self.lr, self.grad_norm = event.get("lr"), event.get("grad_norm")
        self.items = "samples" if event.get("tokens") == event.get("samples") else "tokens"
        self.turn, self.terms = event.get("turn") or "", {**self.terms, **terms(event)}
        if self.loss is not None:
            self.curves.setdefault(self.turn, []).append((float(self.step), self.loss))

    def _take_eval(self, event: Event) -> None:
        if self._speaks(event) and event.get("loss") is not None:
            self.validation, self.bits_per_byte = event["loss"], event.get("bits_per_byte")
            bits = f" ({fixed(self.bits_per_byte)} bits per byte)" if self.bits_per_byte is not None else ""
            self._note(event, f"step {event['step']:,}: validation loss {fixed(self.validation)}{bits}")

    def _take_checkpoint(self, event: Event) -> None:
        if self._speaks(event):
            self._note(event, f"checkpoint of step {event['step']:,} in {duration(event.get('seconds'))}")

    def _take_no_snapshots(self, event: Event) -> None:
        self._note(event, f"no snapshots, a restart begins at a checkpoint: {event.get('reason')}", urgent=True)

    def _take_failure(self, event: Event) -> None:
        first = next(iter(str(event.get("message", "")).splitlines()), "")
        self._note(event, f"rank {event.rank} failed: {event.get('type')}: {first}", urgent=True)

    def _take_death(self, event: Event) -> None:
        rank = self.ranks.get(event["rank"])
        if rank is not None:
            rank.condition = "dead"
        if not event.get("victim"):
            where = f", phase {event.get('phase')}, step {event.get('step')}"
            self._note(event, f"rank {event['rank']} died: {event.get('cause')}{where}", urgent=True)

    def _take_restart(self, event: Event) -> None:
        self.restarts += 1
        for rank in self.ranks.values():
            rank.condition = "restarting"
        self._note(event, f"restart from the {event.get('source')} of step {event.get('from_step'):,}", urgent=True)

    def _finish(self, event: Event) -> None:
        self.outcome = ENDS[event.kind]
        reason = event.get("reason")
        self._note(event, self.outcome + (f": {reason}" if reason else ""), urgent=self.outcome == "failed")
