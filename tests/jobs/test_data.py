"""A run keeps its data: what changes outside while it is stopped changes nothing, or stops it."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from shardwright.jobs.data import open_run_data, record
from shardwright.jobs.run_folder import RunFolder, create
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
    first = open_run_data(run, options, "tokens")
    record(run, options, first)
    Path(options.path).write_text(TEXT.upper())
    again = open_run_data(run, options, "tokens")
    assert again.identity == first.identity
    assert (again.train[0]["inputs"] == first.train[0]["inputs"]).all()


def test_a_changed_source_whose_packed_text_is_gone_stops_the_run(run: RunFolder, options: DataOptions) -> None:
    record(run, options, open_run_data(run, options, "tokens"))
    shutil.rmtree(options.cache)
    assert open_run_data(run, options, "tokens").identity  # the same text is packed again
    shutil.rmtree(options.cache)
    Path(options.path).write_text(TEXT.upper())
    with pytest.raises(ValueError, match="the data is not what run job-1 began with"):
        open_run_data(run, options, "tokens")


def test_a_job_may_ask_for_other_data(run: RunFolder, options: DataOptions, tmp_path: Path) -> None:
    first = open_run_data(run, options, "tokens")
    record(run, options, first)
    (tmp_path / "other.txt").write_text(TEXT.upper())
    other = replace(options, path=str(tmp_path / "other.txt"))
    found = open_run_data(run, other, "tokens")
    assert found.identity != first.identity
    record(run, other, found)
    assert open_run_data(run, other, "tokens").identity == found.identity


def test_the_record_is_written_once(run: RunFolder, options: DataOptions) -> None:
    data = open_run_data(run, options, "tokens")
    record(run, options, data)
    before = (run.path / "data.json").stat().st_ino
    record(run, options, open_run_data(run, options, "tokens"))
    assert (run.path / "data.json").stat().st_ino == before
