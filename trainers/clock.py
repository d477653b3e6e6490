"""Where does a step's time go? Named stretches of wall time that add up; what no stretch covers is left over."""

from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter


class Clock:
    """Sums seconds by name until it is read."""

    def __init__(self) -> None:
        self.spent: dict[str, float] = {}
        self.started = perf_counter()
        self.within = 0.0  # seconds of the stretches inside the one that is open

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Count the body's seconds under a name, but for those that a stretch inside it counts."""
        start, before, self.within = perf_counter(), self.within, 0.0
        try:
            yield
        finally:
            seconds = perf_counter() - start
            self.spent[name] = self.spent.get(name, 0.0) + seconds - self.within
            self.within = before + seconds

    def read(self) -> tuple[float, dict[str, float]]:
        """(seconds since the last reading, seconds by name); starts again from zero."""
        now = perf_counter()
        seconds, spent = now - self.started, self.spent
        self.started, self.spent = now, {}
        return seconds, spent
