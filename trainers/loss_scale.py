"""How does fp16 keep small gradients? The objective is multiplied by a scale, and its gradient divided by it.

A gradient that is not finite says that the scale is too large: the update is left out, on every rank alike, and the
scale halved. After enough good steps it doubles (Micikevicius et al. 2018, Mixed Precision Training, section 3.2). It
is a power of two, so it changes nothing else of a number.
"""

import math
from collections.abc import Mapping
from typing import Any

START = 2.0**16  # for the gradient of a mean
GROWTH = 2000  # good steps until it doubles


class LossScale:
    """The scale of one run, equal on every rank."""

    def __init__(self, items: int = 1, growth: int = GROWTH) -> None:
        """Begin near START.

        Args:
            items: of a global batch, where the gradient in fp16 is that of a sum over so many and not of a mean.
            growth: good steps until the scale doubles.
        """
        self.value = START / 2.0 ** math.ceil(math.log2(items))
        self.growth = growth
        self.good = 0  # steps since the scale changed
        self.skipped: dict[str, int] = {}  # phase -> its steps without an update

    def settle(self, good: bool, phase: str) -> None:
        """Note whether a step of a phase found a finite gradient, and so was an update."""
        self.good = self.good + 1 if good else 0
        if not good:
            self.value /= 2
            self.skipped[phase] = self.skipped.get(phase, 0) + 1
        elif self.good == self.growth:
            self.value, self.good = self.value * 2, 0

    def state(self) -> dict[str, Any]:
        """What a resumed run needs, as JSON values."""
        return {"value": self.value, "good": self.good, "skipped": dict(self.skipped)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a state."""
        self.value, self.good, self.skipped = float(state["value"]), int(state["good"]), dict(state["skipped"])


def loss_scale(dtype: str, terms: int, items: int) -> LossScale | None:
    """The scale that a dtype needs; None for those with the exponents of fp32.

    Args:
        terms: of the objective; several are divided by their counts before backward, one is after it.
        items: of a global batch.
    """
    return LossScale(items if terms == 1 else 1) if dtype == "fp16" else None
