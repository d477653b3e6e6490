"""A model and a data set of one's own, twenty lines outside the repository, through every door."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import shardwright as sw
from shardwright.jobs.spec import JobError

SOURCE = """\
import torch
from torch import nn
import shardwright as sw


class Squares:
    def __len__(self):
        return 64

    def __getitem__(self, index):
        x = torch.linspace(-1, 1, 64)[index : index + 1]
        return {"x": x, "y": x * x}


def loss(network, batch):
    errors = (network(batch["x"]) - batch["y"]).square()
    return errors.sum(), errors.numel()


ENTRY = sw.Entry(build=lambda: nn.Sequential(nn.Linear(1, 16), nn.Tanh(), nn.Linear(16, 1)), loss=loss)
"""
JOB = """\
model.name = "own_squares:ENTRY"
data.name = "own_squares:Squares"
train.steps = 8
train.global_batch = 16
optimizer.lr = 0.02
"""
LAYOUTS = {
    "ddp": ("parallel.replicate=2",),
    "zero1": ("parallel.zero=1", "parallel.shard=2"),
    "zero2": ("parallel.zero=2", "parallel.shard=2"),
    "zero3": ("parallel.zero=3", "parallel.shard=2"),
}


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    (tmp_path / "own_squares.py").write_text(SOURCE)
    (tmp_path / "job.toml").write_text(JOB)
    monkeypatch.chdir(tmp_path)
    assert len(SOURCE.splitlines()) <= 22  # twenty, and the two empty ones between imports and class
    yield tmp_path / "job.toml"
    sys.modules.pop("own_squares", None)


@pytest.mark.parametrize("layout", sorted(LAYOUTS))
def test_it_trains_and_its_code_travels_with_the_run(job: Path, layout: str) -> None:
    handle = sw.run(job, "resources.workers=2", *LAYOUTS[layout])
    status = handle.wait()
    assert (status.state, status.step) == ("finished", 8), status.report
    (copy,) = handle.run.code.iterdir()
    assert (copy / "own_squares.py").read_text() == SOURCE
    losses = [step["loss"] for step in handle.metrics]
    assert losses[-1] < losses[0]


def test_a_later_edit_changes_no_attempt_of_the_run(job: Path) -> None:
    first = sw.run(job)
    assert first.wait().state == "finished"
    (job.parent / "own_squares.py").write_text("raise SystemExit('the edited file was imported')\n")
    from shardwright.cluster.launch import resume

    again = resume(first.run.path, "train.steps=10")
    assert (again.wait().state, again.wait().step) == ("finished", 10)


def test_plan_counts_it_on_the_meta_device(job: Path) -> None:
    planned = sw.plan(job, "resources.workers=2", *LAYOUTS["zero3"])
    assert planned.parameters == 2 * 16 + 16 + 1
    assert "meta device" in planned.counted


def test_verify_accepts_it(job: Path) -> None:
    found = sw.verify("own_squares:ENTRY", list(LAYOUTS), data="own_squares:Squares", paths=(str(job.parent),))
    assert found.ok, str(found)


def test_without_a_tensor_plan_only_tensor_parallel_is_refused(job: Path) -> None:
    with pytest.raises(JobError, match="has no tensor plan, so only tensor=1 is possible") as refused:
        sw.run(job, "parallel.tensor=2", "resources.workers=2")
    assert "\n" not in str(refused.value)
    assert not (job.parent / "runs").exists()
