"""What is a launcher? It turns a job into a request that prints itself, and submits exactly that request.

Launchers are found by name through the entry-point group `shardwright.launchers`; ours are found the same way.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from importlib.metadata import entry_points
from pathlib import Path
from shlex import join
from typing import Any, Protocol

from ..jobs.load import Loaded
from ..jobs.run_folder import RunFolder
from ..jobs.spec import JobError
from .handle import Handle

GROUP = "shardwright.launchers"
RUN = "RUN"  # stands for the run folder in commands, until there is one


@dataclass(frozen=True)
class Process:
    """One kind of process that is started."""

    title: str
    command: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)  # added to the submitter's
    note: str = ""

    def __str__(self) -> str:
        words = [f"{name}={value}" for name, value in self.environment.items()]
        command = " ".join([*words, join(self.command)])
        return f"{self.title:12} {command}" + (f"\n{'':12} {self.note}" if self.note else "")


@dataclass(frozen=True)
class Request:
    """Everything that a submission does, as a value: the record it makes or joins, and the processes it starts."""

    job: str
    spec: str  # the resolved job file
    root: Path  # folder of run folders
    run: Path | None  # the run that is continued; None: a new one
    code: Mapping[str, Path]  # the user's own source files: path in the copy -> file
    processes: tuple[Process, ...]
    plan: Mapping[str, Any] = field(default_factory=dict)
    attached: bool = False  # the run is stopped when the process that submits it ends

    def __str__(self) -> str:
        place = str(self.run) if self.run else f"a new folder {self.root / self.job}-N"
        code = [f"code         {name} from {path}" for name, path in self.code.items()]
        end = ["ends         with the process that submits it"] if self.attached else []
        return "\n".join([f"RUN          {place}", *code, *map(str, self.processes), *end])


class Launcher(Protocol):
    """Where and how processes are started."""

    options: type | None  # of the launcher's own section of a job file

    def render(self, job: Loaded, run: RunFolder | None, code: Mapping[str, Path]) -> Request:
        """What submit would do; nothing is touched."""

    def submit(self, request: Request) -> Handle:
        """Do it, and return at once."""


def find_launcher(name: str) -> Launcher:
    """The launcher of that name.

    Raises:
        JobError: there is none.
    """
    known = {found.name: found for found in entry_points(group=GROUP)}
    if name not in known:
        near = get_close_matches(name, known, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise JobError(f"there is no launcher {name!r} (installed: {', '.join(sorted(known))}){hint}")
    launcher: Launcher = known[name].load()()
    return launcher
