"""Does a printed job show every value with its origin, aligned, and read back?"""

import json
import tomllib
from datetime import date
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from shardwright.jobs.load import load_job
from shardwright.jobs.show import literal, quoted, to_json, to_toml

VALUES: Any = st.recursive(
    st.one_of(st.integers(), st.booleans(), st.floats(allow_nan=False), st.text(), st.dates()),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(), inner, max_size=3)),
    max_leaves=6,
)


@given(st.text(), VALUES)
def test_a_literal_is_one_line_that_toml_reads_back(name: str, value: Any) -> None:
    text = f"{quoted(name)} = {literal(value)}"
    assert "\n" not in text
    assert tomllib.loads(text) == {name: value}


def test_a_literal_keeps_dates_and_reads_tuples_as_lists() -> None:
    assert literal({"a b": (1, date(2024, 1, 2))}) == '{"a b" = [1, 2024-01-02]}'


def test_every_value_stands_before_its_origin_in_one_column() -> None:
    job = load_job("gpt", ["train.tokens=5", "model.config.heads=2"])
    rows = [line for line in to_toml(job.spec, job.origins).splitlines() if line and line[0] != "["]
    assert len(rows) == len(job.origins)
    assert len({line.rindex("  # ") for line in rows}) == 1
    assert any(line.split() == ["tokens", "=", "5", "#", "command", "line"] for line in rows)
    assert any(line.split() == ["#", "steps", "=", "#", "default"] for line in rows)
    assert any(line.split() == ["heads", "=", "2", "#", "command", "line"] for line in rows)


def test_without_origins_only_what_is_given_is_written() -> None:
    job = load_job("gpt", ["train.tokens=5"])
    text = to_toml(job.spec)
    assert "#" not in text and "epochs" not in text and text.startswith("[run]\n")
    tree = tomllib.loads(text)
    assert tree["train"]["tokens"] == 5 and tree["optimizer"]["betas"] == [0.9, 0.95] and "config" not in tree["model"]


def test_json_holds_value_and_origin_of_every_key() -> None:
    job = load_job("gpt", ["train.tokens=5", "model.config.a.b=2"])
    table = json.loads(to_json(job.spec, job.origins))
    assert set(table) == set(job.origins)
    assert table["train.tokens"] == {"value": 5, "origin": "command line"}
    assert table["train.steps"] == {"value": None, "origin": "default"}
    assert table["model.config.a.b"] == {"value": 2, "origin": "command line"}
