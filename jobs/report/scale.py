"""Where on a chart does a value sit? Ticks at round numbers, positions as fractions, and curves thinned for the eye."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import ceil, floor, isfinite, log10

Point = tuple[float, float]


@dataclass(frozen=True)
class Scale:
    """A range of values, linear or logarithmic."""

    low: float
    high: float
    log: bool = False

    def at(self, value: float) -> float:
        """The fraction of the way from low to high."""
        if self.log:
            return (log10(value) - log10(self.low)) / (log10(self.high) - log10(self.low))
        return (value - self.low) / (self.high - self.low)

    def ticks(self, wanted: int = 5) -> list[float]:
        """Round values inside the range, about as many as wanted."""
        return _powers(self.low, self.high) if self.log else _round(self.low, self.high, wanted)


def around(values: Sequence[float], *, zero: bool = False, log: bool = False) -> Scale:
    """A scale that holds the values with a little air; with `zero` it starts at zero."""
    low, high = min(values), max(values)
    if log:
        return Scale(low / 1.1, high * 1.1, log=True)
    air = (high - low) * 0.06 or abs(high) * 0.1 or 1.0
    return Scale(0.0 if zero and low >= 0 else low - air, high + air)


def wide(values: Sequence[float]) -> bool:
    """Whether values spread over so many powers of ten that only a logarithm shows them."""
    return min(values) > 0 and max(values) / min(values) > 50


def _round(low: float, high: float, wanted: int) -> list[float]:
    rough = (high - low) / wanted
    power = 10.0 ** floor(log10(rough))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= rough)
    return [index * step for index in range(ceil(low / step - 1e-9), floor(high / step + 1e-9) + 1)]


def _powers(low: float, high: float) -> list[float]:
    factors = (1,) if high / low > 1e3 else (1, 2, 5)
    powers = range(floor(log10(low)), ceil(log10(high)) + 1)
    return [factor * 10.0**power for power in powers for factor in factors if low <= factor * 10.0**power <= high]


def thin(points: Sequence[Point], most: int = 600) -> list[Point]:
    """At most about `most` points that draw the same picture: of each bucket its first, lowest, highest and last."""
    if len(points) <= most:
        return list(points)
    size = ceil(len(points) * 4 / most)
    kept: list[Point] = []
    for start in range(0, len(points), size):
        bucket = points[start : start + size]
        chosen = {0, len(bucket) - 1, _extreme(bucket, 1), _extreme(bucket, -1)}
        kept.extend(bucket[index] for index in sorted(chosen))
    return kept


def _extreme(bucket: Sequence[Point], sign: int) -> int:
    return max(range(len(bucket)), key=lambda index: sign * bucket[index][1])


def smooth(points: Sequence[Point], window: int) -> list[Point]:
    """Mean over a window around each point, shrinking evenly towards the ends: a trend is neither late nor early."""
    sums = [0.0, *accumulate(y for _, y in points)]
    averaged = []
    for index, (x, _) in enumerate(points):
        half = min(window // 2, index, len(points) - 1 - index)
        averaged.append((x, (sums[index + half + 1] - sums[index - half]) / (2 * half + 1)))
    return averaged


def finite(points: Sequence[tuple[float, float | None]]) -> list[Point]:
    """The points whose value is known and finite."""
    return [(x, y) for x, y in points if y is not None and isfinite(y)]


def quantile(values: Sequence[float], q: float) -> float:
    """The value below which a share q of the values lies, interpolated."""
    ordered = sorted(values)
    place = q * (len(ordered) - 1)
    below = floor(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)
