"""How is a curve drawn? As SVG that stretches to its box, with labels in HTML that keep their size on any screen.

Without JavaScript the chart is whole; with it, a pointer reads values off the curves.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .numbers import plain, text
from .scale import Point, Scale, around, thin

Words = Callable[[float], str]


@dataclass(frozen=True)
class Curve:
    """Points of one thing, drawn as "line", "faint" (raw values behind a smooth line) or "dots"."""

    name: str  # "": drawn, but neither in the legend nor read off by the pointer
    color: str  # a CSS variable of the page, such as "blue"
    points: Sequence[Point]
    style: str = "line"


@dataclass(frozen=True)
class Line:
    """A reference: at x upright, or at y across; with a word."""

    at: float
    word: str
    color: str = "dim"


@dataclass(frozen=True)
class Frame:
    """Two scales and the round values on them."""

    x: Scale  # steps
    y: Scale
    rows: Sequence[float]
    words: Words  # how a value of y reads


def plot(
    title: str,
    curves: Sequence[Curve],
    *,
    note: str = "",
    upright: Sequence[Line] = (),
    across: Sequence[Line] = (),
    zero: bool = False,
    log: bool = False,
    words: Words = plain,
    tall: bool = False,
) -> str:
    """A figure over steps; a sentence where there is nothing to draw.

    Args:
        zero: the scale of values starts at zero; log: it is logarithmic.
        words: how a value reads.
    """
    curves = [Curve(curve.name, curve.color, thin(curve.points), curve.style) for curve in curves if curve.points]
    note += " · logarithmic" if log else ""
    if not curves:
        return _figure(title, "", "<p>No values yet.</p>", tall)
    frame = _frame(curves, across, around(_values(curves, across), zero=zero, log=log), words, 6 if tall else 4)
    upright = [line for line in upright if frame.x.low <= line.at <= frame.x.high]
    caption = f"<small>{text(note)}</small>{_legend(curves)}"
    return _figure(title, caption, _area(title, frame, curves, upright, across), tall)


def _figure(title: str, caption: str, body: str, tall: bool) -> str:
    kind = "card plot tall" if tall else "card plot"
    return f'<figure class="{kind}"><figcaption><h3>{text(title)}</h3>{caption}</figcaption>{body}</figure>'


def _values(curves: Sequence[Curve], across: Sequence[Line]) -> list[float]:
    return [y for curve in curves for _, y in curve.points] + [line.at for line in across]


def _frame(curves: Sequence[Curve], across: Sequence[Line], y: Scale, words: Words, rows: int) -> Frame:
    steps = [x for curve in curves for x, _ in curve.points]
    low, high = min(steps), max(steps)
    return Frame(Scale(low, high) if high > low else Scale(low - 1, high + 1), y, y.ticks(rows), words)


def _area(title: str, frame: Frame, curves: Sequence[Curve], upright: Sequence[Line], across: Sequence[Line]) -> str:
    return (
        f'<div class="area" data-curves="{text(_data(curves, frame.words))}" '
        f'data-low="{frame.x.low:g}" data-high="{frame.x.high:g}">'
        f"{_labels(frame)}{_drawing(title, frame, curves, upright, across)}"
        f"{''.join(_upright_word(frame.x, line) for line in upright)}"
        f"{''.join(_across_word(frame.y, line) for line in across)}</div>"
    )


def _legend(curves: Sequence[Curve]) -> str:
    named = [curve for curve in curves if curve.name]
    if len(named) < 2:
        return ""
    items = "".join(
        f'<li><i class="{curve.style}" style="color:var(--{curve.color})"></i>{text(curve.name)}</li>'
        for curve in named
    )
    return f'<ul class="legend">{items}</ul>'


def _data(curves: Sequence[Curve], words: Words) -> str:
    """What the pointer reads: per curve its name, color, steps and written values."""
    named = [curve for curve in curves if curve.name]
    return json.dumps(
        [
            {
                "n": curve.name,
                "c": curve.color,
                "x": [x for x, _ in curve.points],
                "y": [words(y) for _, y in curve.points],
            }
            for curve in named
        ],
        separators=(",", ":"),
    )


def _labels(frame: Frame) -> str:
    """Values at the left; steps below, where there is room beside the word "step"."""
    rows = "".join(
        f'<b class="y" style="bottom:{frame.y.at(row):.2%}">{text(frame.words(row))}</b>' for row in frame.rows
    )
    steps = [step for step in frame.x.ticks(6) if step == round(step) and frame.x.at(step) > 0.07]
    columns = "".join(
        f'<b class="x{" odd" if index % 2 else ""}" style="left:{frame.x.at(step):.2%}">{step:,.0f}</b>'
        for index, step in enumerate(reversed(steps))
    )
    return f'{rows}<b class="x unit">step</b>{columns}'


def _drawing(title: str, frame: Frame, curves: Sequence[Curve], upright: Sequence[Line], across: Sequence[Line]) -> str:
    x, y = frame.x, frame.y
    grid = "".join(_path("grid", f"M0 {_down(y, row)}H1000") for row in frame.rows)
    lines = "".join(_path("mark", f"M{_right(x, line.at)} 0V1000", line.color) for line in upright)
    levels = "".join(_path("mark", f"M0 {_down(y, line.at)}H1000", line.color) for line in across)
    drawn = "".join(_path(curve.style, _shape(x, y, curve), curve.color) for curve in curves)
    return (
        f'<svg viewBox="0 0 1000 1000" preserveAspectRatio="none" role="img" aria-label="{text(title)}">'
        f"{grid}{levels}{lines}{drawn}</svg>"
    )


def _path(kind: str, shape: str, color: str = "") -> str:
    style = f' style="stroke:var(--{color})"' if color else ""
    return f'<path class="{kind}"{style} d="{shape}"/>'


def _shape(x: Scale, y: Scale, curve: Curve) -> str:
    """A polyline, or dots as strokes without length: their round ends stay round however the drawing is stretched."""
    places = [f"{_right(x, at)} {_down(y, value)}" for at, value in curve.points]
    if curve.style == "dots":
        return "".join(f"M{place}h0" for place in places)
    return "M" + "L".join(places)


def _right(x: Scale, value: float) -> str:
    return f"{x.at(value) * 1000:.1f}"


def _down(y: Scale, value: float) -> str:
    return f"{(1 - y.at(value)) * 1000:.1f}"


def _upright_word(x: Scale, line: Line) -> str:
    side = "left" if x.at(line.at) < 0.8 else "right"
    place = x.at(line.at) if side == "left" else 1 - x.at(line.at)
    return f'<em class="upright" style="{side}:{place:.2%};color:var(--{line.color})">{text(line.word)}</em>'


def _across_word(y: Scale, line: Line) -> str:
    return f'<em class="across" style="bottom:{y.at(line.at):.2%};color:var(--{line.color})">{text(line.word)}</em>'
