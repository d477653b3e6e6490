"""What is one measured figure? Its value beside its bound, as a JSON line that says whether it is met."""

import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from statistics import median, quantiles
from typing import Any, NoReturn


@dataclass(frozen=True)
class Figure:
    """One row of the table."""

    benchmark: str  # the file that measured it
    name: str  # what was measured
    value: float
    unit: str
    most: float | None = None  # the bound, where it is from above
    least: float | None = None  # the bound, where it is from below; neither: the figure is only reported
    detail: dict[str, Any] = field(default_factory=dict)  # what the value was made of

    @property
    def ok(self) -> bool | None:
        """Whether the bound is met; None where there is none."""
        if self.most is None and self.least is None:
            return None
        return (self.most is None or self.value <= self.most) and (self.least is None or self.value >= self.least)

    @property
    def bound(self) -> str:
        """The bound in words."""
        if self.most is not None:
            return f"at most {self.most:g}"
        return "" if self.least is None else f"at least {self.least:g}"

    def to_json(self) -> str:
        """One line; the inverse of from_line."""
        return json.dumps({**asdict(self), "ok": self.ok})


def from_line(line: str) -> Figure:
    """The figure of a line that to_json wrote."""
    fields = json.loads(line)
    fields.pop("ok")
    return Figure(**fields)


def spread(values: Sequence[float], digits: int = 4) -> dict[str, Any]:
    """Median and quartiles of repeated measurements, and how many there were."""
    low, _, high = quantiles(values, n=4, method="inclusive") if len(values) > 1 else [values[0]] * 3
    return {
        "median": round(median(values), digits),
        "quartiles": [round(low, digits), round(high, digits)],
        "count": len(values),
    }


def report(figures: Iterable[Figure]) -> NoReturn:
    """Print each figure as it comes and leave, with exit code 1 when one missed its bound."""
    missed = False
    for figure in figures:
        print(figure.to_json(), flush=True)
        missed |= figure.ok is False
    sys.exit(missed)
