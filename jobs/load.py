"""Which job does a person mean? Merges the layers of a job into one typed value, or says in one message why not.

Invariant: a JobSpec that leaves here has only known keys, right types and values inside their limits, and exactly one
length; each dotted key has an origin. What needs the entry or the machine is checked by jobs/check.py.
"""

import os
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..models.catalog import find
from ..trainers.options import LENGTHS
from .fields import NO_SECTIONS, Key, convert, keys, legal, nearest, section_types, similar
from .layers import Layer, Source, Stated, command_line, file_layers, find_source, surroundings, tree_layers
from .lines import KeyPath, key_lines, remarks
from .show import flat_values, literal, quoted
from .show import to_toml as to_toml
from .spec import JobError as JobError
from .spec import JobSpec


@dataclass(frozen=True)
class Loaded:
    """A job and where each of its values comes from."""

    spec: JobSpec
    origins: Mapping[str, str]  # dotted key -> "gpt.toml:12", "profile ...:3", "command line", "model" or "default"

    @property
    def name(self) -> str:
        """The job's name: run.name, or the file's."""
        return self.spec.run.name


def load_job(
    source: str | Path | Mapping[str, Any],
    overrides: Sequence[str] = (),
    *,
    launchers: Mapping[str, type] = NO_SECTIONS,
    environ: Mapping[str, str] = os.environ,
) -> Loaded:
    """The job of a file, a bare name (a shipped example) or the same tree as a value.

    Args:
        source: what is asked; site file and profile speak before it.
        overrides: key=value words, which speak last.
        launchers: section name -> option type of each launcher that has options.
        environ: where SHARDWRIGHT_SITE, XDG_CONFIG_HOME and HOME are looked up.

    Raises:
        JobError: anything is wrong with it; the message names file and line, key, value and what is legal.
    """
    around = surroundings(environ)
    if isinstance(source, Mapping):
        return assemble([*around, *tree_layers(source), command_line(overrides)], launchers, "job")
    file = find_source(source)
    return assemble([*around, *file_layers(file), command_line(overrides)], launchers, file.path.stem)


def load_resolved(path: Path, overrides: Sequence[str] = (), *, launchers: Mapping[str, type] = NO_SECTIONS) -> Loaded:
    """The job that `to_toml(spec, origins)` wrote, with its origins; neither site nor profile speaks again.

    Raises:
        JobError: the text is not such a job, or an override is wrong.
    """
    (layer,) = file_layers(Source(path, str(path)))
    text = path.read_text(encoding="utf-8")
    said, lines = remarks(text), key_lines(text)
    known = {at: Stated(each.value, said.get(lines[at], each.origin)) for at, each in layer.items()}
    return assemble([known, command_line(overrides)], launchers, path.stem)


def assemble(layers: Iterable[Layer], launchers: Mapping[str, type], name: str) -> Loaded:
    """One job out of its layers, first to last."""
    types = section_types(launchers)
    table = {section: keys(section, options) for section, options in types.items()}
    merged: Layer = {}
    for layer in layers:
        said = {path: stated for path, stated in layer.items() if not bare(table, path, stated)}
        merge(merged, {path: typed(table, path, stated) for path, stated in said.items()})
    merged |= read_by_model(merged)
    if not any(("train", length) in merged for length in LENGTHS):
        raise JobError(f"job {name!r}: exactly one of {alternatives()} is needed, and none is given")
    return built(merged, types, launchers, name)


def read_by_model(merged: Layer) -> Layer:
    """The data set that the model's entry learns on, where no layer names one."""
    asked, default = merged.get(("model", "name"), Stated(JobSpec().model.name, "")), JobSpec().data.name
    if ("data", "name") in merged:
        return {}
    try:
        dataset = find(asked.value).dataset
    except (ValueError, ImportError):  # jobs/check.py says what is wrong with it
        return {}
    return {("data", "name"): Stated(dataset, "model")} if dataset not in ("", default) else {}


def built(merged: Layer, types: Mapping[str, type], launchers: Mapping[str, type], name: str) -> Loaded:
    """The typed value of a merged layer."""
    if not merged.get(("run", "name"), Stated("", "")).value:
        merged[("run", "name")] = Stated(name, "default")
    values = {section: options(**nested(merged, section)) for section, options in types.items()}
    own = {section: value for section, value in values.items() if section not in launchers}
    spec = JobSpec(**own, launchers={section: values[section] for section in launchers})
    said = {dotted(path): stated.origin for path, stated in merged.items()}
    return Loaded(spec, {each: said.get(each, "default") for each, _ in flat_values(spec)})


def bare(table: Mapping[str, Any], path: KeyPath, stated: Stated) -> bool:
    """Whether this is the empty table of a known section: nothing is said."""
    return len(path) == 1 and path[0] in table and stated.value == {}


def merge(merged: Layer, layer: Layer) -> None:
    """Put a layer over those before it; a length it states takes the place of theirs."""
    lengths = [("train", name) for name in LENGTHS if ("train", name) in layer]
    if len(lengths) > 1:
        places = " and ".join(f"{layer[path].origin}: {dotted(path)}" for path in lengths)
        raise JobError(f"{places} are given together; state exactly one of {alternatives()}")
    gone: list[KeyPath] = [("train", name) for name in LENGTHS] if lengths else []
    gone += [path for path in merged if any(covers(path, new) or covers(new, path) for new in layer)]
    for path in gone:
        merged.pop(path, None)
    merged.update(layer)


def covers(outer: KeyPath, inner: KeyPath) -> bool:
    """Whether `inner` lies inside the table at `outer`."""
    return len(outer) < len(inner) and inner[: len(outer)] == outer


def alternatives() -> str:
    """The keys of which a job states exactly one."""
    return ", ".join(f"train.{name}" for name in LENGTHS)


def typed(table: Mapping[str, Mapping[str, Key]], path: KeyPath, stated: Stated) -> Stated:
    """A stated value in its field's type.

    Raises:
        JobError: unknown key or section, wrong type, outside the limits.
    """
    key = find_key(table, path, stated)
    if key.open and len(path) > 2:
        return Stated(plain(path, stated), stated.origin)
    if len(path) > 2:
        raise JobError(f"{stated.origin}: {dotted(path[:2])} is a table: expected {legal(key)}")
    try:
        return Stated(convert(key, stated.value), stated.origin)
    except ValueError as error:
        raise JobError(f"{stated.origin}: {key.dotted} = {written(stated.value)}: {error}") from None


def find_key(table: Mapping[str, Mapping[str, Key]], path: KeyPath, stated: Stated) -> Key:
    """The key at a path."""
    section = path[0]
    if section not in table:
        close = nearest([f"[{each}]" for each in similar(section, table)]) or nearest(same_or_similar(table, path[-1]))
        raise JobError(f"{stated.origin}: [{section}] is not a section{close} (legal: {', '.join(table)})")
    if len(path) < 2:
        raise JobError(f"{stated.origin}: {section} = {written(stated.value)}: {section} is a section, [{section}]")
    if path[1] not in table[section]:
        close = nearest(same_or_similar(table, path[1], section))
        known = ", ".join(table[section])
        raise JobError(f"{stated.origin}: {dotted(path[:2])} is not a key{close} (legal in [{section}]: {known})")
    return table[section][path[1]]


def same_or_similar(table: Mapping[str, Mapping[str, Key]], name: str, section: str = "") -> list[str]:
    """The keys that were probably meant: the same word elsewhere, else a similar one, first in this section."""
    everywhere = [key for known in table.values() for key in known.values()]
    if same := [key.dotted for key in everywhere if key.name == name]:
        return same
    if here := similar(name, table.get(section, ())):
        return [f"{section}.{here[0]}"]
    words = similar(name, [key.name for key in everywhere])
    return [key.dotted for key in everywhere if key.name in words]


def nested(merged: Layer, section: str) -> dict[str, Any]:
    """The values of one section, the keys of open tables put back into tables."""
    tree: dict[str, Any] = {}
    for path, stated in merged.items():
        if path[0] == section:
            place = tree
            for name in path[1:-1]:
                place = place.setdefault(name, {})
            place[path[-1]] = stated.value
    return tree


def dotted(path: KeyPath) -> str:
    """A path as the file writes it."""
    return ".".join(map(quoted, path))


def plain(path: KeyPath, stated: Stated) -> Any:
    """A value of an open table as it comes back from TOML."""
    try:
        return tomllib.loads(f"value = {literal(stated.value)}")["value"]
    except TypeError:
        kind = type(stated.value).__name__
        message = f"expected text, a number, true or false, a list or a table, got a {kind}"
        raise JobError(f"{stated.origin}: {dotted(path)} = {stated.value!r}: {message}") from None


def written(value: Any) -> str:
    """A value as the file writes it; what TOML cannot write, as Python does."""
    try:
        return literal(value)
    except TypeError:
        return repr(value)
