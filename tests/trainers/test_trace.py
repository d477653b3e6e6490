"""A trace of some steps opens as a Chrome trace, with the course of memory beside it."""

import json
from pathlib import Path

import pytest
import torch
from shardwright.trainers.trace import Trace, traced_steps


def test_steps_to_trace() -> None:
    assert list(traced_steps("")) == []
    assert list(traced_steps("3:5")) == [3, 4, 5]
    assert list(traced_steps("7")) == [7]
    with pytest.raises(ValueError, match="invalid literal"):
        traced_steps("a:b")


def test_a_trace_of_two_steps(tmp_path: Path) -> None:
    trace = Trace(range(2, 4), tmp_path / "trace", rank=1)
    weight = torch.zeros(256, 256, requires_grad=True)
    for step in range(1, 6):
        trace.before(step)
        with torch.profiler.record_function(f"step {step}"):
            (torch.randn(64, 256) @ weight).sum().backward()
        trace.after(step)
    events = json.loads((tmp_path / "trace" / "rank-001.trace.json").read_text())["traceEvents"]
    assert {f"step {i}" for i in range(1, 6)} & {event["name"] for event in events} == {"step 2", "step 3"}
    memory = json.loads((tmp_path / "trace" / "rank-001.memory.json").read_text())["events"]
    assert any(event["bytes"] == 256 * 256 * 4 for event in memory)
    assert any(event["bytes"] < 0 for event in memory)
    assert not list((tmp_path / "trace").glob("*.part"))


def test_a_run_that_ends_within_the_steps_is_written(tmp_path: Path) -> None:
    trace = Trace(range(1, 10), tmp_path, rank=0)
    trace.before(1)
    torch.ones(3).sum()
    trace.after(1)
    assert not list(tmp_path.iterdir())
    trace.close()
    assert (tmp_path / "rank-000.trace.json").exists()
