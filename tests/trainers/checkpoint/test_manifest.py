"""Which folders are checkpoints, and what is said of one that cannot be used?"""

import json
from pathlib import Path

import pytest
from shardwright.trainers.checkpoint.manifest import (
    FORMAT,
    CheckpointError,
    DataFile,
    Manifest,
    check_files,
    encode,
    listing,
    newest,
    read,
)
from shardwright.trainers.checkpoint.publish import begin, discard, publish


def manifest(root: Path, step: int, attempt: int = 0, files: tuple[DataFile, ...] = ()) -> Manifest:
    path = root / f"step-{step:09}"
    return Manifest(path, step, attempt, 4, "2.13.0", 1.5, {"step": step, "note": "é"}, 3, files)


def put(root: Path, step: int, attempt: int = 0, keep: int = 9) -> None:
    fresh = begin(root, step, attempt)
    assert fresh is not None
    (fresh / "rank-00000.safetensors").write_text(f"{step} of {attempt}")
    publish(fresh, manifest(root, step, attempt), keep)


def steps(root: Path) -> list[int]:
    return [found.step for found in listing(root)]


def hidden(root: Path) -> list[str]:
    return sorted(path.name for path in root.iterdir() if path.name.startswith("."))


def test_a_manifest_reads_as_it_was_written(tmp_path: Path) -> None:
    written = manifest(tmp_path, 7, files=(DataFile("a.safetensors", 3, "00"), DataFile("b.safetensors", 4, "11")))
    written.path.mkdir()
    (written.path / "manifest.json").write_text(encode(written), encoding="utf-8")
    assert read(written.path) == written
    assert written.bytes == 7


def test_only_published_steps_are_listed_in_order(tmp_path: Path) -> None:
    for step in (100, 20, 1_000_000_000):
        put(tmp_path, step)
    (tmp_path / "step-000000500").mkdir()  # torn: no manifest
    (tmp_path / "notes").mkdir()
    assert begin(tmp_path, 600, 0) is not None  # a save that was killed
    assert steps(tmp_path) == [20, 100, 1_000_000_000]
    assert newest(tmp_path) == tmp_path / "step-1000000000"
    assert listing(tmp_path / "nowhere") == [] and newest(tmp_path / "nowhere") is None


def test_a_torn_folder_is_called_by_its_name(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"is not a checkpoint: it has no manifest\.json"):
        read(tmp_path)


def test_a_newer_format_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text(json.dumps({"format": FORMAT + 1, "novelty": 3}))
    with pytest.raises(CheckpointError, match=f"format {FORMAT + 1}, .* up to {FORMAT}: install a newer shardwright"):
        read(tmp_path)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": "one"}', '{"format": 1, "files": []}', "\xff"])
def test_a_damaged_manifest_says_so(tmp_path: Path, text: str) -> None:
    (tmp_path / "manifest.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(CheckpointError, match="is damaged"):
        read(tmp_path)


def test_an_unreadable_checkpoint_is_never_passed_over(tmp_path: Path) -> None:
    put(tmp_path, 1)
    (tmp_path / "step-000000002").mkdir()
    (tmp_path / "step-000000002" / "manifest.json").write_text('{"format": 99}')
    assert newest(tmp_path) == tmp_path / "step-000000002"
    with pytest.raises(CheckpointError, match="format 99"):
        listing(tmp_path)


def test_an_older_damaged_checkpoint_stops_no_save(tmp_path: Path) -> None:
    put(tmp_path, 1)
    (tmp_path / "step-000000001" / "manifest.json").write_text("")
    put(tmp_path, 2, keep=2)
    put(tmp_path, 3, keep=2)
    assert steps(tmp_path) == [2, 3]


def test_files_are_compared_with_size_and_checksum(tmp_path: Path) -> None:
    digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # of "abc", FIPS 180-2
    checked = manifest(tmp_path, 1, files=(DataFile("a", 3, digest),))
    checked.path.mkdir()
    file = checked.path / "a"
    for content, complaint in (("abd", "damaged"), ("abcd", "damaged"), ("", "damaged"), (None, "lacks a")):
        file.unlink(missing_ok=True)
        if content is not None:
            file.write_text(content)
        with pytest.raises(CheckpointError, match=complaint):
            check_files(checked, checked.files)
    file.write_text("abc")
    check_files(checked, checked.files)


def test_the_newest_are_kept_and_leftovers_removed(tmp_path: Path) -> None:
    for step in (10, 20, 30, 40):
        put(tmp_path, step, keep=2)
    begin(tmp_path, 50, 0)  # killed
    put(tmp_path, 50, attempt=1, keep=2)
    assert steps(tmp_path) == [40, 50]
    assert {path.name for path in tmp_path.iterdir()} == {"step-000000040", "step-000000050"}


def test_what_was_just_published_is_kept_even_below_older_steps(tmp_path: Path) -> None:
    put(tmp_path, 100)
    put(tmp_path, 60, keep=1)
    assert steps(tmp_path) == [60]


def test_a_published_step_is_not_saved_again(tmp_path: Path) -> None:
    put(tmp_path, 5)
    assert begin(tmp_path, 5, 1) is None
    late = tmp_path / "late"
    late.mkdir()
    (late / "rank-00000.safetensors").write_text("late")
    with pytest.raises(OSError, match="not empty"):
        publish(late, manifest(tmp_path, 5, 1), 9)
    assert (tmp_path / "step-000000005" / "rank-00000.safetensors").read_text() == "5 of 0"


def test_an_older_attempt_neither_begins_nor_publishes(tmp_path: Path) -> None:
    old = begin(tmp_path, 10, 0)
    assert old is not None
    new = begin(tmp_path, 9, 1)
    assert new is not None
    with pytest.raises(CheckpointError, match=r"attempt 1 of this run .* attempt 0 must not"):
        publish(old, manifest(tmp_path, 10, 0), 2)
    discard(old)
    publish(new, manifest(tmp_path, 9, 1), 2)
    with pytest.raises(CheckpointError, match="attempt 0 must not"):
        begin(tmp_path, 11, 0)
    assert steps(tmp_path) == [9] and hidden(tmp_path) == []


def test_a_folder_without_its_manifest_gives_way(tmp_path: Path) -> None:
    put(tmp_path, 5)
    (tmp_path / "step-000000005" / "manifest.json").unlink()
    put(tmp_path, 5, attempt=2)
    assert read(tmp_path / "step-000000005").attempt == 2
    assert hidden(tmp_path) == []
