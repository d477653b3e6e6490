"""Where is a run recorded? One folder, complete from its first moment, with one live job at most.

Invariant: a folder with a run.json is whole, since it is made aside and renamed; its lock is held exactly while a job
is live, since the kernel drops the lock with the process.
"""

import errno
import fcntl
import hashlib
import json
import os
import platform
import re
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from pathlib import Path
from secrets import token_hex
from typing import Any, TextIO

from .environment import environment, installed

FORMAT = 1  # of the run folder; docs/run-folder.md lists what each number means
TAKEN = (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR)
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
ATTEMPT = re.compile(r"attempt-(\d+)-.*")
PROBE = 0.5  # seconds; a reader that asks whether a run is live holds its lock for microseconds


class RunError(ValueError):
    """A run that cannot be made, found, locked or removed; the message is one sentence for the user."""


@dataclass(frozen=True)
class Holder:
    """Who locked a run."""

    pid: int
    host: str
    since: float  # unix seconds

    def __str__(self) -> str:
        return (
            f"process {self.pid} on {self.host} since {time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(self.since))}"
        )


@dataclass(frozen=True)
class RunFolder:
    """A run's place on disk. Making the value touches nothing; `create` and `find` give one that exists."""

    path: Path

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def spec(self) -> Path:
        """The resolved job file; a comment behind each value tells its origin."""
        return self.path / "spec.toml"

    @property
    def plan(self) -> Path:
        return self.path / "plan.json"

    @property
    def code(self) -> Path:
        return self.path / "code"

    @property
    def events(self) -> Path:
        return self.path / "events"

    @property
    def logs(self) -> Path:
        return self.path / "logs"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def tensorboard(self) -> Path:
        return self.path / "tensorboard"

    @property
    def report(self) -> Path:
        return self.path / "report.html"

    def log(self, attempt: int, rank: int) -> Path:
        """The file that holds everything a rank printed during an attempt."""
        return self.logs / f"attempt-{attempt:03d}-rank-{rank:03d}.log"

    def facts(self) -> dict[str, Any]:
        """run.json: {"format", "name", "created" (unix seconds), "environment"}.

        Raises:
            RunError: the folder was written in a newer format.
        """
        facts: dict[str, Any] = json.loads((self.path / "run.json").read_text())
        if facts["format"] > FORMAT:
            raise RunError(
                f"run {self.name} has format {facts['format']}, but this shardwright reads up to {FORMAT}: upgrade it"
            )
        return facts

    def next_attempt(self) -> int:
        """The number of the next attempt: one above the highest that left an event or a log file."""
        names = [path.name for folder in (self.events, self.logs) for path in folder.iterdir()]
        return max((int(found[1]) for found in map(ATTEMPT.fullmatch, names) if found), default=-1) + 1

    def add_code(self, files: Mapping[str, Path]) -> Path:
        """Copy source files under code/HASH/, the hash being that of names and contents; an equal copy is reused."""
        digest = hashlib.sha256()
        for name in sorted(files):
            content = files[name].read_bytes()
            digest.update(f"{len(name)} {name} {len(content)} ".encode() + content)
        folder = self.code / digest.hexdigest()[:16]
        if not folder.is_dir():
            with _aside(self.code) as aside:
                for name, source in files.items():
                    (aside / name).parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(source, aside / name)
                _claim(aside, folder)
        return folder

    def holder(self) -> Holder | None:
        """Who holds the run now; None where no job is live, whatever a dead one left in the lock file."""
        with (self.path / "lock").open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return _read_holder(file) or Holder(0, "unknown host", time.time())
        return None

    @contextmanager
    def lock(self) -> Iterator[Holder | None]:
        """Hold the run. Yields who held it before and died without letting go (a stale lock), or None.

        Raises:
            RunError: another live job holds the run, or the file system keeps no locks.
        """
        with (self.path / "lock").open("r+") as file:
            _take(file, self.name)
            stale = _read_holder(file)
            _write_holder(file, Holder(os.getpid(), platform.node(), time.time()))
            try:
                yield stale
            finally:
                file.seek(0)
                file.truncate()
                fcntl.flock(file, fcntl.LOCK_UN)  # by name, not by closing: a forked child may share the open file


def create(
    root: Path,
    name: str,
    spec: str,
    *,
    plan: Mapping[str, Any] | None = None,
    packages: tuple[str, ...] = (),
) -> RunFolder:
    """Make the next folder NAME-N under root.

    Args:
        spec: the text of spec.toml, the resolved job with the origin of each value as a comment behind it.
        plan: plan.json; packages: distributions whose versions run.json records beside the usual ones.

    Raises:
        RunError: the name cannot be a folder's name, or root cannot be written.
    """
    if not NAME.fullmatch(name):
        raise RunError(f"run.name = {name!r} must start with a letter or digit and hold only those and . _ -")
    try:
        root.mkdir(parents=True, exist_ok=True)
        with _aside(root) as aside:
            _fill(aside, name, spec, plan or {}, packages)
            return RunFolder(_claim_next(aside, root, name))
    except OSError as error:
        raise RunError(f"run.folder = {str(root)!r} cannot hold a run: {error.strerror or error}") from error


def _fill(folder: Path, name: str, spec: str, plan: Mapping[str, Any], packages: tuple[str, ...]) -> None:
    for part in ("code", "events", "logs", "checkpoints", "tensorboard"):
        (folder / part).mkdir()
    (folder / "lock").touch()
    (folder / "spec.toml").write_text(spec)
    (folder / "plan.json").write_text(json.dumps(plan, indent=1) + "\n")
    facts = {
        "format": FORMAT,
        "name": name,
        "created": time.time(),
        "environment": environment() | {"packages": installed(packages)},
    }
    (folder / "run.json").write_text(json.dumps(facts, indent=1) + "\n")


def _claim_next(aside: Path, root: Path, name: str) -> Path:
    number = max((_number(path, name) for path in root.iterdir()), default=0) + 1
    while not _claim(aside, root / f"{name}-{number}"):
        number += 1
    return root / f"{name}-{number}"


def _number(path: Path, name: str) -> int:
    prefix, _, number = path.name.rpartition("-")
    return int(number) if prefix == name and number.isdecimal() else 0


def _claim(aside: Path, target: Path) -> bool:
    """Rename a full folder to a name that nobody has; the kernel lets one of two callers win."""
    try:
        aside.rename(target)
    except OSError as error:
        if error.errno in TAKEN:
            return False
        raise
    return True


@contextmanager
def _aside(parent: Path) -> Iterator[Path]:
    folder = parent / f".new-{os.getpid()}-{token_hex(4)}"
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _take(file: TextIO, name: str) -> None:
    deadline = time.monotonic() + PROBE
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            if time.monotonic() > deadline:
                holder = _read_holder(file)
                raise RunError(f"run {name} is live ({holder}); stop it with: shardwright stop {name}") from None
            time.sleep(0.01)
        except OSError as error:
            raise RunError(f"run {name} cannot be locked, its file system keeps no locks: {error.strerror}") from error
    if not os.fstat(file.fileno()).st_nlink:
        raise RunError(f"run {name} was removed while this job waited for its lock")


def _read_holder(file: TextIO) -> Holder | None:
    file.seek(0)
    text = file.read()
    return Holder(**json.loads(text)) if text.endswith("\n") else None


def _write_holder(file: TextIO, holder: Holder) -> None:
    file.seek(0)
    file.truncate()
    file.write(json.dumps(asdict(holder)) + "\n")
    file.flush()


def publish(path: Path, text: str) -> None:
    """Write a file whole: aside, flushed to disk, renamed. A reader sees the old text or the new."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with aside.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def list_runs(root: Path) -> list[RunFolder]:
    """The runs under a folder, oldest first."""
    if not root.is_dir():
        return []
    found = [RunFolder(path) for path in root.iterdir() if path.name[0] != "." and (path / "run.json").is_file()]
    return sorted(found, key=lambda run: (json.loads((run.path / "run.json").read_text())["created"], run.name))


def find(run: str | Path, root: Path) -> RunFolder:
    """The run of that name under root, of that path, or the newest for "last".

    Raises:
        RunError: there is no such run; the message names the nearest.
    """
    runs = list_runs(root)
    if run == "last":
        if not runs:
            raise RunError(f"there is no run in {root}")
        return runs[-1]
    for path in (root / run, Path(run)):
        if (path / "run.json").is_file():
            return RunFolder(path)
    names = [one.name for one in runs]
    near = get_close_matches(str(run), names, n=1, cutoff=0.4)
    hint = f"did you mean {near[0]}?" if near else f"its runs: {', '.join(names[-5:]) or 'none'}"
    raise RunError(f"there is no run {str(run)!r} in {root}; {hint}")


def remove(run: RunFolder) -> None:
    """Delete a run with everything in it.

    Raises:
        RunError: a job is live on it.
    """
    with run.lock():
        gone = run.path.with_name(f".removed-{run.name}-{os.getpid()}")
        run.path.rename(gone)
        shutil.rmtree(gone)
