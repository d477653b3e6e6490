"""What happened? Append-only files, one line an event, one file per attempt and rank.

docs/run-folder.md lists the kinds and their fields.

Invariant: a line is written by one call, so a process that dies leaves whole lines and at most one torn last line,
which readers leave out.
"""

import json
import math
import os
import re
import time
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FILE = re.compile(r"attempt-(\d+)-(?:rank-(\d+)|supervisor)\.jsonl")


@dataclass(frozen=True)
class Event:
    """One line: when, what, from whom, and the fields of its kind."""

    t: float  # unix seconds
    kind: str
    attempt: int
    rank: int | None  # None: the supervisor
    fields: Mapping[str, Any]

    def __getitem__(self, name: str) -> Any:
        return self.fields[name]

    def get(self, name: str, default: Any = None) -> Any:
        """A field that may be missing."""
        return self.fields.get(name, default)


def file_name(attempt: int, rank: int | None) -> str:
    """The name of the file that holds a rank's events of an attempt; rank None is the supervisor."""
    return f"attempt-{attempt:03d}-" + ("supervisor" if rank is None else f"rank-{rank:03d}") + ".jsonl"


class EventFile:
    """Appends events to a file; it is a Sink.

    A full or vanished disk never stops training: lines that could not be written are counted, and the next line that
    can be is followed by a "lost" event with their number.
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.time) -> None:
        self.path, self.clock, self.lost, self._torn = path, clock, 0, False
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)

    def __call__(self, kind: str, /, **fields: Any) -> None:
        """Write one event, with the time now.

        Raises:
            TypeError: a field is not a JSON value.
        """
        if self._write({"t": self.clock(), "kind": kind, **fields}) and self.lost:
            lost, self.lost = self.lost, 0
            self._write({"t": self.clock(), "kind": "lost", "count": lost})

    def _write(self, record: dict[str, Any]) -> bool:
        line = encode(record).encode()
        try:
            written = os.write(self._file, b"\n" * self._torn + line)
        except OSError:
            written = 0
        whole = written == len(line) + self._torn
        self._torn = not whole and (self._torn or written > 0)
        self.lost += not whole
        return whole

    def close(self) -> None:
        """Close the file; an event after it is counted as lost."""
        os.close(self._file)
        self._file = -1  # not the number: another file may get it


def encode(record: Mapping[str, Any]) -> str:
    """One line of JSON, its newline included. A number that is not finite becomes null: JSON has no word for it."""
    try:
        return json.dumps(record, separators=(",", ":"), allow_nan=False) + "\n"
    except ValueError:
        return json.dumps(_finite(record), separators=(",", ":"), allow_nan=False) + "\n"


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def decode(line: bytes, attempt: int, rank: int | None, t: float = 0.0) -> Event:
    """The event of a line; a line that no writer of ours wrote becomes kind "unreadable", at the time given."""
    try:
        record = json.loads(line)
        return Event(float(record.pop("t")), str(record.pop("kind")), attempt, rank, record)
    except (ValueError, TypeError, KeyError, AttributeError):
        return Event(t, "unreadable", attempt, rank, {"line": line.decode(errors="replace")[:200]})


class Follower:
    """Reads what is new in a folder of event files, however many attempts and ranks come to write there."""

    def __init__(self, folder: Path, ranks: Container[int | None] | None = None) -> None:
        self.folder = folder
        self.ranks = ranks  # whose files are read; None: everyone's
        self._read: dict[str, int] = {}  # file name -> bytes of whole lines that were given out

    def poll(self) -> list[Event]:
        """Events since the last call, by time; a line without its end is left for a later call."""
        found: list[Event] = []
        for path, attempt, rank in self._files():
            lines, self._read[path.name] = _lines(path, self._read.get(path.name, 0))
            t = path.stat().st_mtime
            found.extend(decode(line, attempt, rank, t) for line in lines)
        return in_order(found)

    def _files(self) -> Iterator[tuple[Path, int, int | None]]:
        for path in sorted(self.folder.iterdir()):
            match = FILE.fullmatch(path.name)
            rank = int(match[2]) if match and match[2] else None
            if match and (self.ranks is None or rank in self.ranks):
                yield path, int(match[1]), rank


def _lines(path: Path, offset: int) -> tuple[list[bytes], int]:
    if path.stat().st_size == offset:
        return [], offset
    with path.open("rb") as file:
        file.seek(offset)
        whole, _, _ = file.read().rpartition(b"\n")
    return [line for line in whole.split(b"\n") if line], offset + len(whole) + bool(whole)


def in_order(events: Iterable[Event]) -> list[Event]:
    """Events by time; where times are equal, by attempt, the supervisor first."""
    return sorted(events, key=lambda event: (event.t, event.attempt, -1 if event.rank is None else event.rank))


def read(folder: Path, ranks: Container[int | None] | None = None) -> list[Event]:
    """Every event of a run, or of some ranks (None among them is the supervisor), by time."""
    return Follower(folder, ranks).poll()
