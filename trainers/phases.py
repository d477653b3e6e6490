"""Whose turn is it? The phase of a step is a function of the step alone, so a resumed run goes on in the same phase."""

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

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


def check_phases(phases: Sequence[Phase], parameters: Mapping[str, Any]) -> None:
    """Refuse phases that cannot be what their entry meant; a pattern that fits nothing would train nothing, unseen.

    Args:
        parameters: of the whole Program, by name.

    Raises:
        ValueError: two phases have one name, one takes no step, a pattern fits no parameter, or a parameter that is to
            be trained has no phase.
    """
    names = [phase.name for phase in phases]
    if len(set(names)) < len(names):
        raise ValueError(f"the phases {', '.join(names)} must have different names")
    for phase in phases:
        if phase.times < 1:
            raise ValueError(f"the phase {phase.name!r} has times={phase.times}; leave it out, or give it a step")
        for pattern in phase.trains:
            if not any(fnmatchcase(name, pattern) for name in parameters):
                known = ", ".join(list(parameters)[:4])
                raise ValueError(f"the phase {phase.name!r} trains {pattern!r}, which fits no parameter ({known}, ...)")
    trained = [name for name, parameter in parameters.items() if parameter.requires_grad]
    if phases and (idle := [name for name in trained if not any(trains(phase, name) for phase in phases)]):
        raise ValueError(
            f"no phase trains {', '.join(idle[:4])} ({len(idle)} parameters): name them in a phase's `trains`, or set "
            "requires_grad=False"
        )
