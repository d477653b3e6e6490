"""Whose turn is it? The phase of a step is a function of the step alone, so a resumed run goes on in the same phase."""

from collections.abc import Sequence
from fnmatch import fnmatchcase

from ..models.entry import Phase

EVERYTHING = Phase("")


class Turns:
    """The cycle of an entry's phases; of one without phases, a cycle of one step that trains everything."""

    def __init__(self, phases: Sequence[Phase]) -> None:
        self.cycle = [phase for phase in phases for _ in range(phase.times)] or [EVERYTHING]

    def at(self, step: int) -> Phase:
        """The phase of the step that follows so many."""
        return self.cycle[step % len(self.cycle)]

    def updates(self, name: str, steps: int) -> int:
        """How many of the first steps updated a parameter."""
        turns = [trains(phase, name) for phase in self.cycle]
        whole, rest = divmod(steps, len(turns))
        return whole * sum(turns) + sum(turns[:rest])


def trains(phase: Phase, name: str) -> bool:
    """Whether a phase updates a parameter."""
    return any(fnmatchcase(name, pattern) for pattern in phase.trains)
