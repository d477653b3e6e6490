"""The page on what is more than one network, loss and data set: its examples stand, and no layout changes them."""

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import shardwright as sw

PAGE = Path(__file__).parents[2] / "docs" / "widenings.md"
EXAMPLES = dict(re.findall(r"```python\n(# (\w+)\.py\n.*?)```", PAGE.read_text(), re.S)[i][::-1] for i in range(4))
DATA = {"rivals": "rivals:Points", "memory": "memory:Points", "bandit": ""}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    for name, text in EXAMPLES.items():
        (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    for name in EXAMPLES:
        sys.modules.pop(name, None)


def test_the_page_shows_every_widening() -> None:
    assert set(EXAMPLES) == {"rivals", "memory", "bandit", "rule"}


@pytest.mark.parametrize("name", sorted(DATA))
def test_no_layout_changes_an_example(folder: Path, name: str) -> None:
    found = sw.verify(f"{name}:ENTRY", ["ddp", "zero1", "zero3", "hsdp2x2"], data=DATA[name], paths=(str(folder),))
    assert found.ok, str(found)


@pytest.mark.parametrize("name", sorted(EXAMPLES))
def test_an_example_trains_as_a_job_and_goes_on_where_it_was(folder: Path, name: str) -> None:
    from shardwright.cluster.launch import resume

    words = [
        "train.steps=5",
        "train.global_batch=8",
        f"model.name={name}:ENTRY",
        "optimizer.lr=0.01",
        "schedule.name=constant",
    ]
    if name != "bandit":
        words.append(f"data.name={name}:Points")
    whole = sw.run({}, *words, "train.steps=8", "run.name=whole")
    status = whole.wait()
    assert status.state == "finished", status.report
    part = sw.run({}, *words, "run.name=part")
    assert part.wait().state == "finished"
    rest = resume(part.run.path, "train.steps=8")
    assert (rest.wait().state, rest.wait().step) == ("finished", 8)
    assert [step["loss"] for step in rest.metrics][-3:] == [step["loss"] for step in whole.metrics][-3:]


def test_the_rule_says_why_it_has_one_worker(folder: Path) -> None:
    with pytest.raises(ValueError, match="the rule corrects itself sample by sample, so one worker sees them all"):
        sw.verify("rule:ENTRY", ["ddp"], data="rule:Points", paths=(str(folder),))
