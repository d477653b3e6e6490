"""How does a resolved job read? As TOML that loads to the same job, each value with its origin behind it."""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

import tomli_w

from .fields import Key, keys
from .spec import JobSpec

Line = tuple[str, str]  # "steps = 100" and the dotted key, or a header and nothing


def to_toml(spec: JobSpec, origins: Mapping[str, str] | None = None) -> str:
    """The job as TOML; with origins, each value's origin is a comment behind it, and values not given are comments.

    load.load_resolved reads the text back to an equal spec with the same origins.
    """
    rows = [row for name, options in sections(spec) for row in section_rows(name, options, origins is not None)]
    if origins is None:
        return "".join(f"{text}\n" for text, _ in rows).lstrip("\n")
    width = min(48, max(len(text) for text, _ in rows))
    lines = [f"{text:<{width}}  # {origins.get(dotted, 'default')}" if dotted else text for text, dotted in rows]
    return "".join(f"{line}\n" for line in lines).lstrip("\n")


def to_json(spec: JobSpec, origins: Mapping[str, str]) -> str:
    """Every dotted key with its value and origin, for machines."""
    table = {dotted: {"value": value, "origin": origins.get(dotted, "default")} for dotted, value in flat_values(spec)}
    return json.dumps(table, indent=2)


def flat_values(spec: JobSpec) -> Iterator[tuple[str, Any]]:
    """Every dotted key with its value; the keys of an open table one by one."""
    for name, options in sections(spec):
        for key in keys(name, type(options)).values():
            value = getattr(options, key.name)
            if key.open and value:
                yield from ((f"{key.dotted}.{dotted}", each) for dotted, each in flat(value))
            else:
                yield key.dotted, value


def sections(spec: JobSpec) -> list[tuple[str, Any]]:
    """Section name and value, the launchers' own sections last."""
    own = [(name, value) for name, value in vars(spec).items() if name != "launchers"]
    return [*own, *spec.launchers.items()]


def section_rows(name: str, options: Any, whole: bool) -> list[Line]:
    """One section: its header, its plain values, then its open tables."""
    known = keys(name, type(options)).values()
    plain = [value_row(key, getattr(options, key.name)) for key in known if not key.open]
    rows = [row for row in plain if whole or not row[0].startswith("#")]
    tables = [row for key in known if key.open for row in table_rows(key, getattr(options, key.name), whole)]
    return [("", ""), (f"[{name}]", ""), *rows, *tables]


def value_row(key: Key, value: Any) -> Line:
    """One value; a value that is not given is a comment, for TOML has no word for it."""
    return (f"# {key.name} =" if value is None else f"{key.name} = {literal(value)}"), key.dotted


def table_rows(key: Key, table: Mapping[str, Any], whole: bool) -> list[Line]:
    """An open table, its nested keys dotted."""
    if not table:
        return [(f"{key.name} = {{}}", key.dotted)] if whole else []
    rows = [(f"{dotted} = {literal(value)}", f"{key.dotted}.{dotted}") for dotted, value in flat(table)]
    return [("", ""), (f"[{key.dotted}]", ""), *rows]


def flat(table: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted key and value of a nested table; an empty table is a value."""
    for name, value in table.items():
        dotted = above + quoted(name)
        if isinstance(value, Mapping) and value:
            yield from flat(value, f"{dotted}.")
        else:
            yield dotted, value


def quoted(name: str) -> str:
    """A key as TOML writes it: bare where that is allowed."""
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else literal(name)


def literal(value: Any) -> str:
    """A value as TOML writes it, on one line."""
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(literal, value))}]"
    if isinstance(value, Mapping):
        inner = ", ".join(f"{quoted(name)} = {literal(each)}" for name, each in value.items())
        return f"{{{inner}}}"
    return tomli_w.dumps({"value": value}).removeprefix("value = ").removesuffix("\n")
