"""Who learns what happens to a run? The supervisor's event file, and listeners that hear the workers' events too."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..jobs.events import Event, EventFile, file_name
from ..jobs.run_folder import RunFolder

Listener = Callable[[Event], None]


class Record:
    """One file per attempt; listeners hear everything in the order in which it arrives."""

    def __init__(self, run: RunFolder, listeners: Sequence[Listener] = ()) -> None:
        self.attempt = run.next_attempt() - 1
        self._run = run
        self._listeners = listeners
        self._file: EventFile | None = None

    @property
    def begun(self) -> bool:
        """Whether an attempt was begun."""
        return self._file is not None

    def next_attempt(self) -> None:
        """Begin the file of another attempt."""
        self.close()
        self.attempt += 1
        self._file = EventFile(self._run.events / file_name(self.attempt, None))

    def tell(self, kind: str, /, **fields: Any) -> None:
        """Write an event of our own and let the listeners hear it."""
        if self._file is not None:
            self._file(kind, **fields)
        self.hear(None, {"t": time.time(), "kind": kind, **fields})

    def hear(self, rank: int | None, line: Mapping[str, Any]) -> None:
        """Pass on an event that is written already."""
        fields = {name: value for name, value in line.items() if name not in ("t", "kind")}
        event = Event(line["t"], line["kind"], self.attempt, rank, fields)
        for listener in self._listeners:
            listener(event)

    def close(self) -> None:
        """Close the file; may be called twice."""
        if self._file is not None:
            self._file.close()
            self._file = None
