"""To whom does training report? A callable that takes the kind of an event and its fields; it must not block."""

from typing import Any, Protocol


class Sink(Protocol):
    """Receives events; jobs/events.py lists the kinds and their fields."""

    def __call__(self, kind: str, /, **fields: Any) -> None: ...


def silent(kind: str, /, **fields: Any) -> None:
    """A sink that drops everything."""
