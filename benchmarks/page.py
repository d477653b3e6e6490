"""How are figures shown? As a table for a terminal, and as a page with the machine and what each figure was made of."""

import ast
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from figure import Figure
from shardwright.jobs.environment import environment, installed

SPREAD = {"median", "quartiles", "count"}  # fields of repeated measurements
PEERS = ("accelerate", "lightning")
VERDICTS = {True: "yes", False: "**no**", None: ""}
HEAD = """\
# Benchmarks

`make bench` measures every figure below on your machine; `make bench ARGS="--only step"` one of them. Peers and ours
alternate in one run, and a ratio is the median of the rounds' ratios; repeated measurements stand as median
[quartiles] (count). This page is what `make bench
ARGS="--write docs/benchmarks.md"` wrote:
"""


def table(figures: Sequence[Figure]) -> str:
    """One line a figure, for a terminal."""
    wide = max((len(figure.name) for figure in figures), default=0)
    said = {True: "met", False: "MISSED", None: ""}
    return "\n".join(
        f"{f.name:{wide}}  {number(f.value):>9} {f.unit:10} {f.bound:14} {said[f.ok]}".rstrip() for f in figures
    )


def page(figures: Sequence[Figure], sources: Path) -> str:
    """The figures as Markdown, each benchmark with its own account of how it measures."""
    names = list(dict.fromkeys(figure.benchmark for figure in figures))
    rows = [f"| {f.name} | {number(f.value)} {f.unit} | {f.bound} | {VERDICTS[f.ok]} |" for f in figures]
    summary = ["| figure | measured | bound | met |", "|---|---|---|---|", *rows]
    parts = [section(name, [f for f in figures if f.benchmark == name], sources) for name in names]
    return "\n".join([HEAD, *place(), "", *summary, "", *parts])


def place() -> list[str]:
    """Date, machine and versions."""
    here = environment()
    versions = ", ".join(f"{name} {version}" for name, version in installed(PEERS).items())
    load = " ".join(f"{value:.1f}" for value in os.getloadavg())
    return [
        f"- date: {time.strftime('%Y-%m-%d')}",
        f"- machine: {here['processor']}, {here['cpus']} processors, {(here['memory'] or 0) / 2**30:.0f} GiB, "
        f"{here['system']}; load average at the end {load}",
        f"- versions: Python {here['python']}, {versions}",
    ]


def section(name: str, figures: Sequence[Figure], sources: Path) -> str:
    """A benchmark's docstring without its command line, and what its figures were made of."""
    text = ast.get_docstring(ast.parse((sources / f"{name}.py").read_text())) or ""
    told = [paragraph for paragraph in text.split("\n\n") if not paragraph.lstrip().startswith("python ")]
    made = [line for figure in figures if figure.detail for line in explained(figure)]
    return "\n".join([f"## {name}", "", "\n\n".join(told), "", *made, *([""] if made else [])])


def explained(figure: Figure) -> list[str]:
    """A figure as an item of a list, with its details as a list below it."""
    rest = {name: value for name, value in figure.detail.items() if name not in SPREAD}
    measured = f": {words(figure.detail)}" if is_spread(figure.detail) else ""
    return [f"- {figure.name}{measured}", *(f"  - {spelled(name)}: {words(value)}" for name, value in rest.items())]


def words(value: Any) -> str:
    """A detail in words; repeated measurements as median [quartiles] (count)."""
    if is_spread(value):
        low, high = map(number, value["quartiles"])
        return f"{number(value['median'])} [{low}, {high}] ({value['count']})"
    if isinstance(value, Mapping):
        return ", ".join(f"{spelled(name)} {words(part)}" for name, part in value.items())
    return number(value) if isinstance(value, int | float) else str(value)


def is_spread(value: Any) -> bool:
    """Whether these are repeated measurements."""
    return isinstance(value, Mapping) and value.keys() >= SPREAD


def spelled(name: str) -> str:
    """A field's name in words."""
    return name.replace("_", " ")


def number(value: float) -> str:
    """Four digits that count."""
    return str(value) if isinstance(value, int) else f"{value:.4g}"
