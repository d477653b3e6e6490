"""Which files does [data] name, and is their content the same as last time? Without torch and without packing.

Invariant: the files come in the order of their names, and the identity of a source is made of each file's name, size
and content, never of where it lies or when it was written.
"""

import hashlib
import json
import os
import sysconfig
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields
from difflib import get_close_matches
from fnmatch import fnmatch
from glob import glob, has_magic
from pathlib import Path
from typing import Any

from ..options import DataOptions
from .samples.shipped import SHIPPED, check_library

PATTERNS = {
    "text": ("*",),
    "jsonl": ("*.jsonl", "*.json", "*.ndjson"),
    "parquet": ("*.parquet", "*.pq"),
    "arrow": ("*.arrow", "*.feather", "*.ipc"),
}
PACKED = ("stdlib", *PATTERNS)
OF_ALL = ("name", "cache")  # keys of [data] that may be stated whatever is read; all others are about text
NOT_LIBRARY = frozenset({"site-packages", "dist-packages", "__pycache__", "test", "tests", "idle_test"})
YOUNG = 2.0  # seconds: a file this fresh may change again within one tick of its clock
Progress = Callable[[str, int, int], None]  # what is done ("read", "tokenizer", "pack"), bytes so far, bytes in all


@dataclass(frozen=True)
class SourceFile:
    """One file of a source: its name inside the source, its bytes and the SHA-256 of its content."""

    name: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Source:
    """The files of a source, in order, with their places on this machine."""

    kind: str
    files: tuple[SourceFile, ...]
    paths: tuple[Path, ...]

    @property
    def bytes(self) -> int:
        """Size of all files."""
        return sum(file.bytes for file in self.files)


def is_packed(options: DataOptions) -> bool:
    """Whether [data] names text or tokens to pack, and not samples that a library or the user's own module gives."""
    return options.name in PACKED


def check_source(options: DataOptions) -> None:
    """Stop on a [data] section that cannot work, without reading the data.

    Raises:
        ValueError: an unknown name, a missing path, a match of no files, a tokenizer that does not exist, a key that
            would be ignored, or a library that is not installed.
    """
    if ":" in options.name:
        return _check_own(options)
    if options.name in SHIPPED:
        _check_text_keys(options, "holds samples and no text")
        return check_library(options.name)
    if options.name not in PACKED:
        known = (*PACKED, *SHIPPED)
        near = get_close_matches(options.name, known, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(
            f"data.name = {options.name!r} is not one of {', '.join(known)}, nor package.module:object{hint}"
        )
    find_files(options)
    _check_tokenizer(options)
    return None


def _check_own(options: DataOptions) -> None:
    module, _, name = options.name.partition(":")
    if not all(part.isidentifier() for part in (*module.split("."), *name.split("."))):
        raise ValueError(f"data.name = {options.name!r} is not of the form package.module:object")
    _check_text_keys(options, "is a data set of your own")


def _check_text_keys(options: DataOptions, reason: str) -> None:
    """Stop on a key about text that was changed for what reads none."""
    for key in fields(options):
        value = getattr(options, key.name)
        if key.name not in OF_ALL and value != key.default:
            raise ValueError(f"data.{key.name} = {value!r} is not read: {options.name} {reason}; leave it out")


def _check_tokenizer(options: DataOptions) -> None:
    tokenizer = options.tokenizer
    if options.name == "arrow" and tokenizer == "bpe":
        raise ValueError(
            "data.tokenizer = 'bpe' cannot be trained on arrow, which holds tokens and no text; "
            "give the tokenizer.json that made them, to see text again, or leave it out"
        )
    if tokenizer not in ("bytes", "bpe") and not Path(tokenizer).expanduser().is_file():
        raise ValueError(f"data.tokenizer = {tokenizer!r} is neither 'bytes' nor 'bpe' nor a file (a tokenizer.json)")


def find_files(options: DataOptions) -> list[tuple[str, Path]]:
    """(name, path) of every file of the source, sorted by name; a name is relative to the folder that was given.

    Raises:
        ValueError: the path is missing, or no file matches.
    """
    if options.name == "stdlib":
        return _library_files(options)
    if not options.path:
        raise ValueError(f"data.name = {options.name!r} needs data.path: a file, a folder or a glob")
    path = Path(options.path).expanduser()
    if path.is_dir():
        found = [(p.relative_to(path).as_posix(), p) for p in _below(path) if _fits(p.name, options.name)]
        expected = f"the folder holds no file of the form {' or '.join(PATTERNS[options.name])}"
    elif path.exists():
        found, expected = [(path.name, path)], ""
    elif has_magic(options.path):
        found, expected = _matches(str(path)), "the glob matches no file"
    else:
        found, expected = [], "there is no such file or folder"
    if not found:
        raise ValueError(f"data.path = {options.path!r}: {expected} (read from {Path.cwd()})")
    return sorted(found)


def _library_files(options: DataOptions) -> list[tuple[str, Path]]:
    if options.path:
        raise ValueError(f"data.path = {options.path!r} is not read by data.name = 'stdlib'; say data.name = 'text'")
    root = Path(sysconfig.get_paths()["stdlib"])
    names = [(p.relative_to(root).as_posix(), p) for p in _below(root, NOT_LIBRARY) if p.suffix == ".py"]
    if not names:
        raise ValueError(f"this Python has no sources of its standard library in {root}; say data.name = 'text'")
    return sorted(names)


def _below(root: Path, skipped: frozenset[str] = frozenset()) -> Iterator[Path]:
    """Regular files under a folder, without hidden ones."""
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if name not in skipped and not name.startswith("."))
        yield from (p for name in names if not name.startswith(".") and (p := Path(folder, name)).is_file())


def _fits(name: str, kind: str) -> bool:
    return any(fnmatch(name, pattern) for pattern in PATTERNS[kind])


def _matches(pattern: str) -> list[tuple[str, Path]]:
    texts = glob(pattern, recursive=True)  # noqa: PTH207 - unlike Path.glob it leaves hidden files out
    paths = [path for text in texts if (path := Path(text)).is_file()]
    if not paths:
        return []
    base = os.path.commonpath([path.parent for path in paths])
    return [(path.relative_to(base).as_posix(), path) for path in paths]


def read_source(options: DataOptions, cache: Path, progress: Progress) -> Source:
    """The source with the content hash of each file.

    A file is read only when its size or its time of writing differs from what `cache` remembers of it, so the
    identity of a source that was seen before costs one stat a file.

    Raises:
        ValueError: as `find_files`.
    """
    named = find_files(options)
    memory = cache / "seen" / f"{_digest([str(path.absolute()) for _, path in named])}.json"
    known = _remembered(memory)
    stats = [path.stat() for _, path in named]
    total, done, hashes, seen = sum(stat.st_size for stat in stats), 0, [], {}
    for (_, path), stat in zip(named, stats, strict=True):
        place, state = str(path.absolute()), [stat.st_size, stat.st_mtime_ns]
        old = known.get(place)
        hashes.append(old[2] if old and old[:2] == state else _hash_file(path))
        if time.time() - stat.st_mtime > YOUNG:
            seen[place] = [*state, hashes[-1]]
        done += stat.st_size
        progress("read", done, total)
    if seen != known:
        write_aside(memory, json.dumps(seen).encode())
    files = [SourceFile(name, s.st_size, h) for (name, _), s, h in zip(named, stats, hashes, strict=True)]
    return Source(options.name, tuple(files), tuple(path for _, path in named))


def _remembered(memory: Path) -> dict[str, list[Any]]:
    try:
        known = json.loads(memory.read_bytes())
    except (FileNotFoundError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def _hash_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def source_identity(source: Source) -> str:
    """Hash of every file's name, size and content, 64 hex digits."""
    return _digest([asdict(file) for file in source.files])


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def write_aside(path: Path, content: bytes) -> None:
    """Write a file so that a reader sees all of it or none: aside, then renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f"{path.name}.{os.getpid()}.aside")
    aside.write_bytes(content)
    aside.replace(path)
