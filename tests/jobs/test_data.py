"""A run keeps its data: what changes outside while it is stopped changes nothing, or stops it."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from shardwright.jobs.data import open_run_data, record
from shardwright.jobs.run_folder import RunFolder, create
from shardwright.trainers.data.loader import Loader
from shardwright.trainers.data.order import InTurn
from shardwright.trainers.options import DataOptions

TEXT = "def function(argument):\n    return argument + 1\n\n\n" * 400


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return create(tmp_path / "runs", "job", "")


@pytest.fixture
def options(tmp_path: Path) -> DataOptions:
    (tmp_path / "text.txt").write_text(TEXT)
    cache = str(tmp_path / "cache")
    return DataOptions(name="text", path=str(tmp_path / "text.txt"), sequence_length=16, held_out=0.2, cache=cache)


def test_a_changed_source_does_not_change_the_run(run: RunFolder, options: DataOptions) -> None:
    first = open_run_data(run, options, "tokens", 4)
    record(run, options, first)
    Path(options.path).write_text(TEXT.upper())
    again = open_run_data(run, options, "tokens", 4)
    assert again.identity == first.identity
    assert (again.train[0]["inputs"] == first.train[0]["inputs"]).all()


def test_a_changed_source_whose_packed_text_is_gone_stops_the_run(run: RunFolder, options: DataOptions) -> None:
    record(run, options, open_run_data(run, options, "tokens", 4))
    shutil.rmtree(options.cache)
    assert open_run_data(run, options, "tokens", 4).identity  # the same text is packed again
    shutil.rmtree(options.cache)
    Path(options.path).write_text(TEXT.upper())
    with pytest.raises(ValueError, match="the data is not what run job-1 began with"):
        open_run_data(run, options, "tokens", 4)


def test_a_job_may_ask_for_other_data(run: RunFolder, options: DataOptions, tmp_path: Path) -> None:
    first = open_run_data(run, options, "tokens", 4)
    record(run, options, first)
    (tmp_path / "other.txt").write_text(TEXT.upper())
    other = replace(options, path=str(tmp_path / "other.txt"))
    found = open_run_data(run, other, "tokens", 4)
    assert found.identity != first.identity
    record(run, other, found)
    assert open_run_data(run, other, "tokens", 4).identity == found.identity


def test_the_record_is_written_once(run: RunFolder, options: DataOptions) -> None:
    data = open_run_data(run, options, "tokens", 4)
    record(run, options, data)
    before = (run.path / "data.json").stat().st_ino
    record(run, options, open_run_data(run, options, "tokens", 4))
    assert (run.path / "data.json").stat().st_ino == before


def test_other_content_of_a_shipped_data_set_stops_the_run(run: RunFolder) -> None:
    options = DataOptions(name="iris")
    record(run, options, open_run_data(run, options, "samples", 4))
    assert len(open_run_data(run, options, "samples", 4).train) == 120
    known = json.loads((run.path / "data.json").read_text())
    (run.path / "data.json").write_text(json.dumps({**known, "identity": "0" * 64}))  # as if the library had changed
    with pytest.raises(ValueError, match=r"not what run job-1 began with .* no copy of it is kept: begin a new run"):
        open_run_data(run, options, "samples", 4)


def test_experience_is_the_slots_of_a_global_batch(run: RunFolder) -> None:
    data = open_run_data(run, DataOptions(), "experience", 6)
    record(run, DataOptions(), data)
    loader = Loader(data.train, InTurn(6), 0, 6, data_rank=1, data_degree=2, micro_batch=3)
    for step in (0, 5):
        (batch,) = loader.load(step)
        assert batch.keys() == {"sample", "key"} and batch["sample"].tolist() == [3, 4, 5]
    assert not torch.equal(loader.load(0)[0]["key"], loader.load(5)[0]["key"])
