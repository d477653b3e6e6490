"""Does a job whose model makes its own samples run, resume on other workers, and tell its returns?"""

from pathlib import Path

import pytest
import shardwright as sw
from shardwright.cluster.launch import resume
from shardwright.jobs.report.page import write
from shardwright.jobs.spec import JobError

JOB = """\
model.name = "{name}"
train.steps = {steps}
train.global_batch = 8
train.micro_batch = 2
optimizer.lr = 0.002
"""
ZERO = ("resources.workers=2", "parallel.zero=3", "parallel.shard=2")


def job(folder: Path, name: str, steps: int) -> Path:
    path = folder / "job.toml"
    path.write_text(JOB.format(name=name, steps=steps))
    return path


def test_it_resumes_on_other_workers_and_tells_its_returns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = job(tmp_path, "ppo", 20)
    first = sw.run(path, *ZERO, "train.steps=12", "schedule.name=constant")
    assert first.wait().state == "finished"
    twin = sw.run(path, *ZERO, "schedule.name=constant")
    assert twin.wait().state == "finished"
    again = resume(first.run.path, "train.steps=20", "resources.workers=1", "parallel.zero=0", "parallel.shard=1")
    assert again.wait().state == "finished"
    assert [step["turn"] for step in twin.metrics] == (["fresh"] + ["again"] * 9) * 2
    steps, wanted = again.metrics, twin.metrics
    assert [step["step"] for step in steps] == list(range(1, 21))
    assert [step["loss"] for step in steps] == pytest.approx([step["loss"] for step in wanted], abs=1e-3)
    assert [step["step"] for step in steps if "return" in step["terms"]] == [1, 11]
    assert {step["tokens"] for step in steps} == {8}, "a slot counts as one sample"
    report = write(again.run).read_text()
    for words in ('aria-label="Return"', "fresh", "again", "Samples a second"):
        assert words in report


def test_a_plan_needs_no_data(tmp_path: Path) -> None:
    planned = sw.plan(job(tmp_path, "dqn", 10), *ZERO)
    assert (planned.tokens, planned.steps, planned.counted) == (0, 10, "by the entry")
    rows = 4 * 4000 * 11 * 4  # bytes of what a worker's four slots remember
    assert planned.snapshot > 2 * rows
    assert planned.checkpoint > 2 * rows


def test_data_that_would_not_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(JobError, match="dqn makes its samples by acting; leave it out"):
        sw.plan(job(tmp_path, "dqn", 10), 'data.name="stdlib"')


def test_a_rule_runs_on_one_worker_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = job(tmp_path, "perceptron", 20)
    found = sw.run(path, "train.micro_batch=8")
    assert found.wait().state == "finished"
    assert found.metrics[-1]["terms"]["accuracy"] > 0.8
    with pytest.raises(JobError, match="corrects the weights sample by sample"):
        sw.run(path, "train.micro_batch=4", "parallel.replicate=2", "resources.workers=2")
