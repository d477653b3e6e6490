"""Who said what? The layers of a job before they are merged, each value with the place where it was said.

Order, the later one wins: site file, user's profile, files named by `extends`, the job file, key=value.
"""

import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, time
from importlib.resources import files
from pathlib import Path
from typing import Any

from .fields import nearest, similar
from .lines import KeyPath, key_lines
from .spec import JobError

SITE = "/etc/shardwright/site.toml"


@dataclass(frozen=True)
class Stated:
    """A value and where it was said, such as "gpt.toml:12"."""

    value: Any
    origin: str


Layer = dict[KeyPath, Stated]


@dataclass(frozen=True)
class Source:
    """A file that is read: its place, and what origins call it."""

    path: Path
    label: str


def surroundings(environ: Mapping[str, str]) -> list[Layer]:
    """The site's and the user's layers, where their files exist.

    Raises:
        JobError: $SHARDWRIGHT_SITE names no file, or one of the files is not valid.
    """
    site = Path(environ.get("SHARDWRIGHT_SITE") or SITE)
    if environ.get("SHARDWRIGHT_SITE") and not site.is_file():
        raise JobError(f"SHARDWRIGHT_SITE = {str(site)!r} names no file; unset it or write the file")
    home = Path(environ.get("XDG_CONFIG_HOME") or Path(environ.get("HOME") or "/") / ".config")
    profile = home / "shardwright" / "profile.toml"
    named = [Source(site, f"site {site}"), Source(profile, f"profile {profile}")]
    return [layer for source in named if source.path.is_file() for layer in file_layers(source)]


def find_source(job: str | Path) -> Source:
    """The job file that a person names: a path, or the bare name of a file here or of a shipped example.

    Raises:
        JobError: there is none.
    """
    here = Path(job).expanduser()
    if here.is_file():
        return Source(here, str(job))
    bare = here.name == str(job) and not here.suffix
    if bare and here.with_suffix(".toml").is_file():
        return Source(here.with_suffix(".toml"), f"{job}.toml")
    shipped = examples()
    if bare and here.name in shipped:
        return Source(shipped[here.name], f"{job}.toml")
    close = nearest(similar(job, [*shipped, *(str(each) for each in Path().glob("*.toml"))]))
    raise JobError(f"there is no job file {str(job)!r}{close} (shipped examples: {', '.join(shipped)})")


def examples() -> dict[str, Path]:
    """Name -> path of the job files that come with the package."""
    folder = Path(str(files("shardwright.jobs"))) / "examples"
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}


def file_layers(source: Source, above: tuple[Source, ...] = ()) -> list[Layer]:
    """The layers of a file: first those of the files it extends, then its own.

    Raises:
        JobError: a file cannot be read, is not TOML, or extends itself.
    """
    text = read(source)
    lines = key_lines(text)
    tree = parse(text, source.label)
    base = tree.pop("extends", [])
    where = f"{source.label}:{lines.get(('extends',), 1)}"
    parents = [relative(source, name) for name in extended(base, where)]
    return [
        *(layer for parent in parents for layer in parent_layers(parent, (*above, source), where)),
        {path: Stated(value, f"{source.label}:{line_of(lines, path)}") for path, value in flat(tree)},
    ]


def tree_layers(tree: Mapping[str, Any]) -> list[Layer]:
    """The layers of a job given as a value; None is not given, `extends` is relative to the current folder."""
    rest = {name: value for name, value in tree.items() if name != "extends"}
    parents = [Source(Path(name), name) for name in extended(tree.get("extends", []), "argument")]
    return [
        *(layer for parent in parents for layer in parent_layers(parent, (), "argument")),
        {path: Stated(value, "argument") for path, value in flat(rest) if value is not None},
    ]


def parent_layers(parent: Source, above: tuple[Source, ...], where: str) -> list[Layer]:
    """The layers of a file that another one extends."""
    if not parent.path.is_file():
        raise JobError(
            f"{where}: extends = [{parent.label!r}]: there is no such file (the path is relative to the file)"
        )
    if any(parent.path.samefile(each.path) for each in above):
        circle = " -> ".join(each.label for each in (*above, parent))
        raise JobError(f"{where}: extends goes in a circle: {circle}")
    return file_layers(parent, above)


def extended(names: Any, where: str) -> list[str]:
    """The names behind `extends`."""
    if isinstance(names, list | tuple) and all(isinstance(name, str) for name in names):
        return list(names)
    raise JobError(f'{where}: extends = {names!r}: expected a list of files, such as ["base.toml"]')


def relative(source: Source, name: str) -> Source:
    """A file named by another one."""
    label = str(Path(source.label).parent / name)
    return Source(source.path.parent / Path(name).expanduser(), label)


def read(source: Source) -> str:
    """The text of a file."""
    try:
        return source.path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise JobError(f"{source.label}: cannot be read: {error}") from None


def parse(text: str, label: str) -> dict[str, Any]:
    """The tree of a TOML text."""
    try:
        return tomllib.loads(text)
    except ValueError as error:
        raise JobError(f"{label}: not valid TOML: {error}") from None


def line_of(lines: Mapping[KeyPath, int], path: KeyPath) -> int:
    """The line of a key, or of the nearest table around it."""
    return next((lines[path[:length]] for length in range(len(path), 0, -1) if path[:length] in lines), 1)


def flat(tree: Mapping[str, Any], above: KeyPath = ()) -> Iterator[tuple[KeyPath, Any]]:
    """Path and value of every leaf; an empty table is a leaf."""
    for name, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from flat(value, (*above, str(name)))
        else:
            yield (*above, str(name)), value


def command_line(overrides: Sequence[str]) -> Layer:
    """The layer of key=value words; a later word wins.

    Raises:
        JobError: a word is not of that form, or its value opens a TOML string, list or table and does not close it.
    """
    layer: Layer = {}
    for word in overrides:
        name, sign, text = word.partition("=")
        if not sign:
            raise JobError(f"command line: {word!r} is not of the form key=value, such as train.steps=100")
        value = parse_value(word, text.strip())
        path = parse_key(word, name.strip())
        said = flat(value, path) if isinstance(value, Mapping) and value else [(path, value)]
        layer.update({each: Stated(leaf, "command line") for each, leaf in said})
    return layer


def parse_key(word: str, name: str) -> KeyPath:
    """The path that a dotted key spells."""
    try:
        found = list(flat(tomllib.loads(f"{name} = 0")))
    except ValueError:
        found = []
    if len(found) != 1 or found[0][1] != 0 or "\n" in name:
        raise JobError(f"command line: {word!r}: {name!r} is not a dotted key, such as train.steps")
    return found[0][0]


def parse_value(word: str, text: str) -> Any:
    """A value read as TOML; what is not TOML is a bare word and stands for itself, as do dates and times."""
    try:
        tree = tomllib.loads(f"value = {text}")
    except ValueError as error:
        if text[:1] in ('"', "'", "[", "{"):
            raise JobError(f"command line: {word!r}: {text!r} is not valid TOML: {error}") from None
        return text
    value = tree["value"]
    return text if len(tree) > 1 or isinstance(value, date | time) else value
