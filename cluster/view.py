"""What is a run doing right now? A terminal shows it live, anything else gets plain lines.

A renderer is handed a state and the time; what it shows depends on nothing else.
"""

import time
from collections.abc import Callable
from typing import Self, TextIO

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from ..jobs.events import Follower
from ..jobs.report.facts import read_spec
from ..jobs.report.numbers import count, duration, fixed, plain, share
from ..jobs.report.scale import thin
from ..jobs.run_folder import RunFolder
from .progress import State

POLL = 0.2  # seconds between two looks at a run
PLAIN_EVERY = 5.0  # seconds between two lines of progress where there is no terminal
MOST_RANKS = 16  # rows of the table of ranks; with more, those that are not well come first
BLOCKS = "▁▂▃▄▅▆▇█"
SPARKS = 60  # columns of the loss's sparkline
CONDITION = {"alive": "green", "starting": "blue", "restarting": "yellow", "dead": "red", "done": "dim"}


class PlainLog:
    """A line for each note, and one of progress every few seconds."""

    def __init__(self, stream: TextIO, every: float = PLAIN_EVERY) -> None:
        self._stream, self._every = stream, every
        self._noted, self._step, self._last = 0, 0, float("-inf")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._stream.flush()

    def show(self, state: State, now: float) -> None:
        """Write what is new; the last step comes before the last word."""
        if state.outcome:
            self._progress(state, now)
        for note in state.notes[self._noted :]:
            self._write(note.t, note.text)
        self._noted = len(state.notes)
        if now - self._last >= self._every:
            self._progress(state, now)
        self._stream.flush()

    def _progress(self, state: State, now: float) -> None:
        if state.step != self._step:
            self._step, self._last = state.step, now
            self._write(now, progress_line(state))

    def skip(self, state: State) -> None:
        """Leave out the notes so far."""
        self._noted = len(state.notes)

    def _write(self, t: float, words: str) -> None:
        self._stream.write(f"{time.strftime('%H:%M:%S', time.localtime(t))}  {words}\n")


class Screen:
    """A live picture on a terminal; it stays as it was last when the run is over."""

    def __init__(self, console: Console, name: str) -> None:
        self._name, self._hidden = name, 0
        self._live = Live(console=console, auto_refresh=False, transient=False)

    def __enter__(self) -> Self:
        self._live.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._live.stop()

    def show(self, state: State, now: float) -> None:
        """Draw the state."""
        self._live.update(picture(state, self._name, now, self._hidden), refresh=True)

    def skip(self, state: State) -> None:
        """Leave out the notes so far."""
        self._hidden = len(state.notes)


def progress_line(state: State) -> str:
    """ "step 120/300  loss 1.934  validation 1.987  35.9k tokens/s  12 s left"."""
    parts = [
        f"step {state.step:,}" + (f"/{state.total:,}" if state.total else ""),
        f"loss {_loss(state)}" if state.loss is not None else "loss not finite" if state.step else "",
        *(f"{name} {plain(value, 3)}" for name, value in state.terms.items()),
        f"validation {fixed(state.validation)}" if state.validation is not None else "",
        f"{count(state.tokens_per_second)} {state.items}/s" if state.tokens_per_second else "",
        f"{duration(state.seconds_left)} left" if state.seconds_left and not state.outcome else "",
    ]
    return "  ".join(filter(None, parts))


def picture(state: State, name: str, now: float, hidden: int = 0) -> Group:
    """The live view: progress, figures, the course of the loss, the ranks' health, the last notes."""
    parts: list[RenderableType] = [_title(state, name), _bar(state), _figures(state)]
    if len(state.curve) > 1:
        parts.append(Text(sparkline([loss for _, loss in state.curve]), style="blue"))
    if state.ranks and not state.outcome:
        parts.append(_health(state, now))
    for note in state.notes[hidden:][-5:]:
        at = time.strftime("%H:%M:%S", time.localtime(note.t))
        parts.append(Text(f"{at}  {note.text}", style="red" if note.urgent else "dim"))
    return Group(*parts)


def _title(state: State, name: str) -> Text:
    word = state.outcome or ("running" if state.step else "starting")
    color = {"finished": "green", "failed": "red", "stopped": "yellow"}.get(word, "blue")
    again = f"  {state.restarts} restart{'s' * (state.restarts > 1)}" if state.restarts else ""
    return Text.assemble((name, "bold"), "  ", (word, color), (again, "yellow"))


def _bar(state: State) -> Table:
    row = Table.grid(padding=(0, 2))
    done = f"{state.step:,}" + (f"/{state.total:,}  {share(state.step / state.total)}" if state.total else " steps")
    left = f"{duration(state.seconds_left)} left" if state.seconds_left and not state.outcome else ""
    whole, part = (state.total, state.step) if state.total else (1, 0)
    bar = ProgressBar(total=whole, completed=part, width=40, complete_style="blue", finished_style="green")
    row.add_row(bar, done, left)
    return row


def _figures(state: State) -> Text:
    known = {
        "loss": _loss(state) if state.loss is not None else "",
        **{name: plain(value, 3) for name, value in state.terms.items()},
        "validation": fixed(state.validation) if state.validation is not None else "",
        "bits per byte": fixed(state.bits_per_byte) if state.bits_per_byte is not None else "",
        f"{state.items}/s": count(state.tokens_per_second) if state.tokens_per_second else "",
        "lr": plain(state.lr, 3) if state.lr is not None else "",
        "gradient": plain(state.grad_norm, 3) if state.grad_norm is not None else "",
    }
    words = Text()
    for what, value in known.items():
        if value:
            words.append(f"{what} ", "dim").append(value, "bold").append("   ")
    return words


def _loss(state: State) -> str:
    """The last step's, with its phase."""
    return fixed(state.loss) + (f" ({state.turn})" if state.turn else "")


def _health(state: State, now: float) -> Table:
    """One row a rank: condition, phase, step, seconds since it was heard."""
    rows = Table.grid(padding=(0, 3))
    order = sorted(state.ranks.items(), key=lambda item: (item[1].condition == "alive", item[0]))
    for number, rank in sorted(order[:MOST_RANKS]):
        rows.add_row(
            Text(f"rank {number}", style="dim"),
            Text(f"● {rank.condition}", style=CONDITION[rank.condition]),
            Text(rank.phase),
            f"step {rank.step:,}",
            f"heard {max(0.0, now - rank.heard):.1f} s ago",
        )
    if len(order) > MOST_RANKS:
        rows.add_row("", Text(f"and {len(order) - MOST_RANKS} more, all alive or shown above", style="dim"))
    return rows


def sparkline(values: list[float], width: int = SPARKS) -> str:
    """The course of a curve in one line of blocks, the newest at the right."""
    picked = [value for _, value in thin([(float(at), value) for at, value in enumerate(values)], width * 2)]
    picked = [picked[index * len(picked) // width] for index in range(width)] if len(picked) > width else picked
    low, high = min(picked), max(picked)
    scale = (len(BLOCKS) - 1) / (high - low) if high > low else 0.0
    return "".join(BLOCKS[round((value - low) * scale)] for value in picked)


def watch(run: RunFolder, live: Callable[[], bool], stream: TextIO) -> State:
    """Show a run until no job is live on it; returns the last state.

    Args:
        live: whether a job is on the run; asked before each look, so that the last look sees everything.
        stream: a terminal gets the live picture, anything else a plain log.
    """
    steps = next((one.value for one in read_spec(run.spec) if (one.section, one.key) == ("train", "steps")), None)
    state, follower = State(total=steps), Follower(run.events)
    console = Console(file=stream)
    with Screen(console, run.name) if console.is_terminal else PlainLog(stream) as renderer:
        going = live()
        _catch_up(state, follower, renderer, going)
        while True:
            renderer.show(state, time.time())
            if not going:
                return state
            time.sleep(POLL)
            going = live()
            for event in follower.poll():
                state.update(event)


def _catch_up(state: State, follower: Follower, renderer: PlainLog | Screen, going: bool) -> None:
    """Take what happened before; what was noted before the newest start by a person is old news."""
    for event in follower.poll():
        if event.kind == "attempt" and going and not state.restarting:
            renderer.skip(state)
        state.update(event)
    if going and state.outcome:
        renderer.skip(state)
