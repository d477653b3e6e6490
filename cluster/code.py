"""Which source files are the user's own part of a run? Those that an entry or a data set outside shardwright needs.

They are copied into the run, so that a later edit changes no attempt of it. Installed packages are not: run.json
records their versions.
"""

import ast
import sys
import sysconfig
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

from ..jobs.layers import find_source

MAX_BYTES = 1 << 20  # of one file; what is larger is data, not code


def own_files(names: Sequence[str], folders: Sequence[Path]) -> Mapping[str, Path]:
    """Path inside the copy -> source file, of every top-level module that the named ones lead to.

    Args:
        names: "package.module:object" or "package.module".
        folders: where the user's modules are looked for, before the rest of sys.path.
    """
    waiting = [name.partition(":")[0].partition(".")[0] for name in names]
    files: dict[str, Path] = {}
    seen: set[str] = set()
    while waiting:
        top = waiting.pop()
        if top not in seen:
            seen.add(top)
            found = dict(_module_files(top, folders))
            files |= found
            waiting += [name for path in found.values() if path.suffix == ".py" for name in _imports(path)]
    return files


def folder_of(job: str | Path | Mapping[str, Any]) -> Path:
    """Where the user's own modules stand: beside the job file, or here."""
    return Path.cwd() if isinstance(job, Mapping) else find_source(job).path.absolute().parent


@contextmanager
def on_path(folders: Sequence[Path]) -> Iterator[None]:
    """Let the user's modules be imported from there."""
    added = [str(folder) for folder in folders]
    sys.path[:0] = added
    try:
        yield
    finally:
        for folder in added:
            sys.path.remove(folder)


def _module_files(top: str, folders: Sequence[Path]) -> Iterator[tuple[str, Path]]:
    """The files of a top-level module or package; none where it is installed, built in or missing."""
    spec = PathFinder.find_spec(top, [*map(str, folders), *sys.path])
    if spec is None or spec.origin is None or top == "shardwright" or _is_installed(Path(spec.origin)):
        return
    origin = Path(spec.origin)
    if not spec.submodule_search_locations:
        yield origin.name, origin
        return
    for path in sorted(origin.parent.rglob("*")):
        inside = path.relative_to(origin.parent)
        hidden = any(part.startswith(".") or part == "__pycache__" for part in inside.parts)
        if path.is_file() and not hidden and path.stat().st_size <= MAX_BYTES:
            yield str(top / inside), path


def _is_installed(path: Path) -> bool:
    installed = {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    return any(path.is_relative_to(folder) for folder in installed)


def _imports(path: Path) -> Iterator[str]:
    """Top-level names that a source file imports absolutely."""
    try:
        tree = ast.parse(path.read_bytes())
    except SyntaxError:  # the worker reports it
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.partition(".")[0]
