"""Does the scanner find the line of every key, however the file is written?"""

import tomllib
from collections.abc import Iterator
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from shardwright.jobs.lines import KeyPath, key_lines, remarks
from shardwright.jobs.show import literal, quoted

NAMES = st.one_of(st.text("abcz_-09", min_size=1, max_size=3), st.text(max_size=3))
VALUES = st.one_of(
    st.integers(-9, 9),
    st.booleans(),
    st.floats(allow_nan=False),
    st.text(max_size=8),
    st.lists(st.sampled_from(["[a]", "b = 1", "#", "}", '"', "'"]), max_size=3),
)
TREES: Any = st.recursive(VALUES, lambda inner: st.dictionaries(NAMES, inner, max_size=3), max_leaves=8)
GAPS = st.sampled_from(["", "\n", "# a = 1\n", "   # [t]\n\n"])
LONG = st.sampled_from(['"""\n[x]\na = 1\n"""', "'''\n\"\n'''", "[\n 1, # ]\n [2],\n]", '""', "''", '"""a"""""', "1.5"])


def written(draw: Any, tree: dict[str, Any], at: KeyPath, lines: dict[KeyPath, int], text: list[str]) -> None:
    """Write a tree in a random style, noting the line of every key."""

    def note(path: KeyPath) -> None:
        lines.setdefault(path, 1 + "".join(text).count("\n"))

    def inline(path: KeyPath, table: dict[str, Any]) -> str:
        parts = []
        for name, value in table.items():
            note((*path, name))
            shown = inline((*path, name), value) if isinstance(value, dict) else literal(value)
            parts.append(f"{quoted(name)} = {shown}")
        return "{" + ", ".join(parts) + "}"

    later = []
    for name, value in tree.items():
        if isinstance(value, dict) and at and draw(st.booleans()):
            later.append((name, value))
            continue
        if isinstance(value, dict) and not at:
            later.append((name, value))
            continue
        text.append(draw(GAPS))
        note((*at, name))
        shown = inline((*at, name), value) if isinstance(value, dict) else literal(value)
        text.append(f"{quoted(name)}={shown} # = [z]\n")
    for name, value in later:
        text.append(draw(GAPS))
        note((*at, name))
        text.append(f"[ {' . '.join(map(quoted, (*at, name)))} ] # header\n")
        written(draw, value, (*at, name), lines, text)


@st.composite
def texts(draw: Any) -> tuple[dict[str, Any], str, dict[KeyPath, int]]:
    """A tree, a text that spells it, and the true lines."""
    tree = draw(st.dictionaries(NAMES, TREES, max_size=4))
    text: list[str] = []
    lines: dict[KeyPath, int] = {}
    written(draw, tree, (), lines, text)
    return tree, "".join(text), lines


def paths(tree: dict[str, Any], above: KeyPath = ()) -> Iterator[KeyPath]:
    """Every key and table of a tree."""
    for name, value in tree.items():
        yield (*above, name)
        if isinstance(value, dict):
            yield from paths(value, (*above, name))


@given(texts())
def test_every_key_is_found_on_its_line(drawn: tuple[dict[str, Any], str, dict[KeyPath, int]]) -> None:
    tree, text, lines = drawn
    assert tomllib.loads(text) == tree
    assert key_lines(text) == lines
    assert set(lines) == set(paths(tree))


@given(st.lists(LONG, min_size=1, max_size=5))
def test_values_over_several_lines_hide_nothing(values: list[str]) -> None:
    text = "".join(f"k{index} = {value}\n" for index, value in enumerate(values)) + "end.a = 1"
    tomllib.loads(text)
    rows = text.split("\n")
    found = key_lines(text)
    assert set(found) == {(f"k{index}",) for index in range(len(values))} | {("end",), ("end", "a")}
    assert all(rows[line - 1].startswith(path[0]) for path, line in found.items())


def test_dotted_keys_and_windows_line_ends() -> None:
    assert key_lines('a.b = 1\r\na."c d".e = 2\r\n[[t]]\r\nx = 1') == {
        ("a",): 1,
        ("a", "b"): 1,
        ("a", "c d"): 2,
        ("a", "c d", "e"): 2,
        ("t",): 3,
        ("t", "x"): 4,
    }


def test_remarks_are_comments_and_not_what_looks_like_one() -> None:
    assert remarks('a = "# no"  # yes\n# line\nb = """\n# no\n""" # end') == {1: "yes", 2: "line", 5: "end"}
