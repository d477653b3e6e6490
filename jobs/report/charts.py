"""Which curves does a report show? Loss, terms, learning rate, gradient norm and throughput, each step counted once.

Steps of different phases have lines of their own.
"""

from collections.abc import Callable

from ..events import Event
from ..history import by_turn, own_seconds, terms, warm
from .facts import Facts
from .numbers import count, fixed, plain
from .plot import Curve, Line, plot
from .scale import Point, finite, smooth, wide

MANY = 40  # points above which a curve is drawn smoothed over its faint raw values
TURNS = ("blue", "green", "purple", "teal")  # colors of the phases
MOST_TERMS = 8  # that get a chart


def all_charts(facts: Facts) -> str:
    """The charts in their order; the loss first and wide."""
    shown = [learning_rate(facts), gradient_norm(facts), *(term(facts, name) for name in named_terms(facts))]
    pairs = [f'<div class="pair">{"".join(shown[i : i + 2])}</div>' for i in range(0, len(shown), 2)]
    return f"{loss(facts)}{''.join(pairs)}{throughput(facts)}"


def named_terms(facts: Facts) -> list[str]:
    """Terms besides the loss, in the order in which they first came."""
    names = dict.fromkeys(name for step in facts.record.curve for name in terms(step))
    return list(names)[:MOST_TERMS]


def term(facts: Facts, name: str) -> str:
    """A named mean over the steps that told it: an accuracy, the return of the episodes that ended."""
    drawn = _by_turn(facts, name, lambda step: terms(step).get(name))
    held_out = finite([(float(event["step"]), terms(event).get(name)) for event in facts.record.evals])
    curves = [curve for raw, line in drawn for curve in (*raw, line)]
    curves += [Curve("", "orange", held_out), Curve("validation", "orange", held_out, "dots")]
    return plot(name.capitalize(), curves, upright=restarts(facts, False), words=lambda value: plain(value, 3))


def loss(facts: Facts) -> str:
    """Training and validation loss; the corpus' unigram entropy is the line a model without context reaches."""
    drawn = _by_turn(facts, "training", lambda step: step.get("loss"))
    raw = [curve for faint, _ in drawn for curve in faint]
    held_out = points(facts.record.evals, "loss")
    told = [Curve("", "orange", held_out), Curve("validation", "orange", held_out, "dots")]
    curves = [*raw, *(line for _, line in drawn), *told]
    entropy = facts.told("data", "unigram_entropy")
    across = [Line(entropy, f"unigram entropy {fixed(entropy, 2)}")] if entropy else []
    return plot("Loss", curves, note=_note(facts, raw), upright=restarts(facts), across=across, words=plain, tall=True)


def learning_rate(facts: Facts) -> str:
    """The schedule as it was stepped."""
    curve = Curve("learning rate", "purple", points(facts.record.curve, "lr"))
    return plot(
        "Learning rate", [curve], upright=restarts(facts, False), zero=True, words=lambda value: plain(value, 3)
    )


def gradient_norm(facts: Facts) -> str:
    """Before clipping; the clipping threshold is drawn where the job has one."""
    values = points(facts.record.curve, "grad_norm")
    positive = [(x, y) for x, y in values if y > 0]
    log_scale = bool(positive) and len(positive) == len(values) and wide([y for _, y in values])
    drawn = _by_turn(facts, "gradient norm", lambda step: step.get("grad_norm"), "teal")
    curves = [curve for raw, line in drawn for curve in (*raw, line)]
    clip = facts.asked("train.clip")
    high = max((y for _, y in values), default=0.0)
    across = [Line(clip, f"clipped above {plain(clip, 3)}")] if clip and clip < high else []
    return plot("Gradient norm", curves, upright=restarts(facts, False), across=across, log=log_scale,
                zero=not log_scale, words=lambda value: plain(value, 3))  # fmt: skip


def throughput(facts: Facts) -> str:
    """Tokens a second of each step; an attempt's first step warms up and is left out."""
    timed = [step for step in warm(facts.record.curve) if step.get("tokens")]
    values = [(float(step["step"]), step["tokens"] / max(own_seconds(step), 1e-9)) for step in timed]
    raw, line = _smoothed(f"{facts.items} a second", "green", values)
    title = f"{facts.items.capitalize()} a second"
    return plot(title, [*raw, line], upright=restarts(facts, False), zero=True, words=lambda value: count(value, ".3g"))


def points(events: tuple[Event, ...], field: str) -> list[Point]:
    """(step, value) of every event that tells a finite value."""
    return finite([(float(event["step"]), event.get(field)) for event in events])


def restarts(facts: Facts, named: bool = True) -> list[Line]:
    """Where an attempt went on from a step of an earlier one."""
    after = [attempt for attempt in facts.record.attempts if attempt.number and attempt.from_step]
    return [Line(one.from_step, ("restart" if one.continues else "resume") if named else "", "red") for one in after]


def _by_turn(
    facts: Facts, name: str, value: Callable[[Event], float | None], color: str = TURNS[0]
) -> list[tuple[list[Curve], Curve]]:
    """A line for each phase, with its name; one line, with the name given, where there are none."""
    turns = by_turn(facts.record.curve)
    colors = [color] if len(turns) == 1 else [TURNS[index % len(TURNS)] for index in range(len(turns))]
    return [
        _smoothed(turn or name, own, finite([(float(step["step"]), value(step)) for step in steps]))
        for own, (turn, steps) in zip(colors, turns.items(), strict=True)
    ]


def _smoothed(name: str, color: str, values: list[Point]) -> tuple[list[Curve], Curve]:
    """The raw values, faint, and one line through them; few values are their own line."""
    if len(values) <= MANY:
        return [], Curve(name, color, values, "dots" if len(values) == 1 else "line")
    return [Curve("", color, values, "faint")], Curve(name, color, smooth(values, max(5, len(values) // 50)))


def _note(facts: Facts, smoothed: list[Curve]) -> str:
    size = facts.told("data", "bytes_per_token")
    unit = f"nats per token of {plain(size, 3)} bytes" if size else ""
    unit = "nats per byte" if size and abs(size - 1) < 0.005 else unit
    return ", ".join(filter(None, (unit, "training smoothed" if smoothed else "")))
