"""Is text packed once, completely, and found again, whatever interrupts it?"""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from shardwright.trainers.data import documents
from shardwright.trainers.data.documents import PIECE, Span
from shardwright.trainers.data.pack import PackedText, cache_folder, prepare
from shardwright.trainers.data.part import Work, read_result
from shardwright.trainers.data.tokenizer import train_bpe
from shardwright.trainers.options import DataOptions

ROWS = [f"row {number}: " + "word " * (number % 50) for number in range(400)]


def write_rows(path: Path, rows: list[str]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps({"text": row}) + "\n" for row in rows))
    return path


def write_text(path: Path, size: int) -> Path:
    lines = "".join(f"{number} is a line of text\n" for number in range(size // 20))
    path.write_text(lines)
    return path


def options(kind: str, path: Path, tmp_path: Path, **more: Any) -> DataOptions:
    return DataOptions(name=kind, path=str(path), cache=str(tmp_path / "cache"), **more)


def tokens(packed: PackedText, side: str) -> np.ndarray:
    stream = packed.stream(side)
    return stream.rows(np.array([0]), len(stream))[0]


def texts(packed: PackedText, side: str) -> list[str]:
    """The documents of a side of byte tokens."""
    found = bytes(tokens(packed, side).tolist()).decode()
    assert found.endswith("\0")
    return found[:-1].split("\0")


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_every_document_is_on_one_side_once_and_in_order(tmp_path: Path) -> None:
    packed = prepare(options("jsonl", write_rows(tmp_path / "a.jsonl", ROWS), tmp_path, held_out=0.1))
    train, held_out = texts(packed, "train"), texts(packed, "held_out")
    assert sorted(train + held_out) == sorted(ROWS)
    assert [row for row in ROWS if row in set(train)] == train
    assert 10 < len(held_out) < 90
    manifest = packed.manifest
    assert manifest["documents"] == {"train": len(train), "held_out": len(held_out)}
    assert manifest["text_bytes"]["held_out"] == sum(len(row.encode()) for row in held_out)
    assert packed.bytes_per_token == manifest["text_bytes"]["held_out"] / manifest["tokens"]["held_out"] < 1


def test_the_split_stays_when_rows_come_and_go(tmp_path: Path) -> None:
    more = [f"new row {number}" for number in range(100)]
    before = prepare(options("jsonl", write_rows(tmp_path / "a.jsonl", ROWS), tmp_path, held_out=0.1))
    after = prepare(options("jsonl", write_rows(tmp_path / "b.jsonl", [*more, *ROWS[::-1]]), tmp_path, held_out=0.1))
    assert set(texts(before, "held_out")) == set(texts(after, "held_out")) - set(more)


def test_where_chance_holds_nothing_out_one_document_is(tmp_path: Path) -> None:
    packed = prepare(options("jsonl", write_rows(tmp_path / "a.jsonl", ROWS[:5]), tmp_path, held_out=1e-9))
    assert packed.manifest["documents"] == {"train": 4, "held_out": 1}


def test_without_held_out_all_is_trained_on(tmp_path: Path) -> None:
    packed = prepare(options("jsonl", write_rows(tmp_path / "a.jsonl", ROWS[:1]), tmp_path, held_out=0.0))
    assert texts(packed, "train") == ROWS[:1]
    assert packed.bytes_per_token is None


@pytest.mark.parametrize(
    ("rows", "held_out", "message"),
    [
        ([""], 0.1, "hold no text"),
        ([""], 0.0, "hold no text"),
        (["one"], 0.1, "one document, or copies of one"),
        (["one"] * 9, 0.1, "one document, or copies of one"),
        (["a", "b", "c"], 0.999999, "left none to train on"),
    ],
)
def test_a_split_that_leaves_a_side_empty_is_refused(
    rows: list[str], held_out: float, message: str, tmp_path: Path
) -> None:
    asked = options("jsonl", write_rows(tmp_path / "a.jsonl", rows), tmp_path, held_out=held_out)
    with pytest.raises(ValueError, match=message):
        prepare(asked)


def test_a_long_text_is_broken_only_where_a_piece_is_held_out(tmp_path: Path) -> None:
    path = write_text(tmp_path / "a.txt", 100 * PIECE)
    packed = prepare(options("text", path, tmp_path, held_out=0.1))
    train, held_out = texts(packed, "train"), texts(packed, "held_out")
    assert packed.manifest["documents"]["held_out"] >= len(held_out) > 1
    assert len(train) in (len(held_out) - 1, len(held_out), len(held_out) + 1)
    rebuilt = path.read_text()
    for run in [*train, *held_out]:
        assert run in rebuilt
    assert sum(map(len, train + held_out)) == len(rebuilt)


def test_bytes_that_are_no_text_pass_unchanged(tmp_path: Path) -> None:
    content = bytes(range(1, 256)) * 10
    (tmp_path / "a.bin").write_bytes(content)
    packed = prepare(options("text", tmp_path / "a.bin", tmp_path, held_out=0.0))
    assert bytes(tokens(packed, "train").tolist()) == content + b"\0"


def test_parquet_is_packed_like_jsonl(tmp_path: Path) -> None:
    pq.write_table(pa.table({"body": ROWS}), tmp_path / "a.parquet", row_group_size=50)
    rows = prepare(options("jsonl", write_rows(tmp_path / "a.jsonl", ROWS), tmp_path))
    table = prepare(options("parquet", tmp_path / "a.parquet", tmp_path, field="body"))
    for side in ("train", "held_out"):
        assert texts(table, side) == texts(rows, side)


def write_ids(path: Path, rows: list[list[int]]) -> Path:
    table = pa.table({"ids": pa.array(rows, pa.list_(pa.int64()))})
    with pa.ipc.new_file(str(path), table.schema) as writer:
        writer.write_table(table)
    return path


def test_pretokenized_rows_stay_as_they_are(tmp_path: Path) -> None:
    rows = [[1000 + number, 70_000] for number in range(50)]
    asked = options("arrow", write_ids(tmp_path / "a.arrow", rows), tmp_path, field="ids", held_out=0.2)
    packed = prepare(asked)
    found = [*tokens(packed, "train"), *tokens(packed, "held_out")]
    assert sorted(found) == sorted(id for row in rows for id in row)
    assert packed.vocab_size == 70_001
    assert packed.tokenizer is None
    assert packed.bytes_per_token is None
    assert pa.ipc.open_file(str(packed.folder / "train-00000.arrow")).schema.field("tokens").type == pa.uint32()


def test_pretokenized_rows_with_their_tokenizer(tmp_path: Path) -> None:
    trained = prepare(
        options("jsonl", write_rows(tmp_path / "a.jsonl", ROWS), tmp_path, tokenizer="bpe", vocab_size=300)
    )
    assert trained.tokenizer is not None
    path = trained.folder / "tokenizer.json"
    rows = [ids.tolist() for ids in trained.tokenizer.encode([row.encode() for row in ROWS])]
    arrow = write_ids(tmp_path / "a.arrow", rows)
    packed = prepare(options("arrow", arrow, tmp_path, field="ids", tokenizer=str(path), held_out=0.1))
    assert packed.vocab_size == trained.vocab_size == 300
    assert packed.tokenizer is not None
    text = packed.tokenizer.decode(tokens(packed, "held_out"))
    assert packed.manifest["text_bytes"]["held_out"] == len(text.encode()) > 0
    beyond = write_ids(tmp_path / "b.arrow", [[1, 2], [300]])
    with pytest.raises(ValueError, match="token 300 is outside the vocabulary of 300"):
        prepare(options("arrow", beyond, tmp_path, field="ids", tokenizer=str(path)))


def test_bpe_never_sees_held_out_text(tmp_path: Path) -> None:
    """A letter of held-out text alone changes nothing of what is learnt."""
    first = options("jsonl", write_rows(tmp_path / "a.jsonl", ROWS), tmp_path, tokenizer="bpe", vocab_size=280)
    held = set(texts(prepare(options("jsonl", tmp_path / "a.jsonl", tmp_path)), "held_out"))
    write_rows(tmp_path / "b" / "a.jsonl", [row for row in ROWS if row not in held])
    second = options("jsonl", tmp_path / "b" / "a.jsonl", tmp_path, tokenizer="bpe", vocab_size=280, held_out=0.0)
    learnt = [(prepare(asked).folder / "tokenizer.json").read_text() for asked in (first, second)]
    assert learnt[0] == learnt[1]
    write_rows(tmp_path / "c" / "a.jsonl", ROWS)
    all_of_it = options("jsonl", tmp_path / "c" / "a.jsonl", tmp_path, tokenizer="bpe", vocab_size=280, held_out=0.0)
    assert (prepare(all_of_it).folder / "tokenizer.json").read_text() != learnt[0]


def test_the_unigram_entropy_is_that_of_the_whole_corpus(tmp_path: Path) -> None:
    packed = prepare(options("jsonl", write_rows(tmp_path / "a.jsonl", ROWS), tmp_path, held_out=0.3))
    counts = np.bincount(np.concatenate([tokens(packed, side) for side in ("train", "held_out")]))
    shares = counts[counts > 0] / counts.sum()
    assert packed.manifest["unigram_entropy"] == pytest.approx(float(-(shares * np.log(shares)).sum()), rel=1e-12)


def test_the_standard_library_is_packed_whole(tmp_path: Path) -> None:
    packed = prepare(DataOptions(cache=str(tmp_path)))
    assert len(packed.manifest["files"]) > 400
    assert 3.0 < packed.manifest["unigram_entropy"] < 3.5
    assert (
        packed.manifest["text_bytes"]["train"] + packed.manifest["text_bytes"]["held_out"]
        == (packed.manifest["source"]["bytes"])
    )


def test_a_data_set_of_the_user_is_not_packed() -> None:
    with pytest.raises(ValueError, match="there is nothing to pack"):
        prepare(DataOptions(name="my.module:data"))


def test_packed_once(tmp_path: Path) -> None:
    asked = options("jsonl", write_rows(tmp_path / "a.jsonl", ROWS), tmp_path)
    first = prepare(asked)
    written = {path.name: path.stat().st_mtime_ns for path in first.folder.iterdir()}
    second = prepare(asked)
    assert second.folder == first.folder
    assert {path.name: path.stat().st_mtime_ns for path in second.folder.iterdir()} == written
    assert set(written) == {"manifest.json", "train-00000.arrow", "held_out-00000.arrow"}


@pytest.mark.parametrize("change", [{"held_out": 0.2}, {"tokenizer": "bpe", "vocab_size": 300}, {"field": "other"}])
def test_what_the_tokens_depend_on_changes_the_identity(change: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"text": row, "other": row[::-1]}) + "\n" for row in ROWS))
    assert (
        prepare(options("jsonl", path, tmp_path)).identity
        != prepare(options("jsonl", path, tmp_path, **change)).identity
    )


def test_another_tokenizer_json_changes_the_identity(tmp_path: Path) -> None:
    path, brought = write_rows(tmp_path / "a.jsonl", ROWS), tmp_path / "brought.json"
    found = set()
    for size in (300, 310):
        brought.write_text(train_bpe(ROWS, size))
        packed = prepare(options("jsonl", path, tmp_path, tokenizer=str(brought)))
        assert packed.vocab_size == size
        found.add(packed.identity)
    assert len(found) == 2


def test_the_length_of_a_sample_does_not_change_the_identity(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "a.jsonl", ROWS)
    found = {prepare(options("jsonl", path, tmp_path, sequence_length=length)).identity for length in (8, 16)}
    assert len(found) == 1


def test_several_processes_pack_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "PART", 8 * PIECE)
    path = write_text(tmp_path / "a.txt", 100 * PIECE)
    one = prepare(options("text", path, tmp_path / "1"), workers=1)
    progress: list[tuple[str, int, int]] = []
    two = prepare(options("text", path, tmp_path / "2"), lambda *seen: progress.append(seen), workers=2)
    assert contents(one.folder) == contents(two.folder)
    assert len(one.manifest["shards"]["train"]) > 5
    packing = [(done, total) for what, done, total in progress if what == "pack"]
    assert packing == sorted(packing)
    assert packing[-1] == (path.stat().st_size, path.stat().st_size)


def test_a_bad_row_in_another_process_is_one_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "PART", 8 * PIECE)
    path = write_rows(tmp_path / "a.jsonl", ROWS * 20)
    with path.open("a") as file:
        file.write("{broken\n")
    with pytest.raises(ValueError, match=r"a\.jsonl, byte \d+: not a line of JSON"):
        prepare(options("jsonl", path, tmp_path), workers=2)


def test_an_interrupted_packing_is_taken_up_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "PART", 8 * PIECE)
    path = write_text(tmp_path / "a.txt", 100 * PIECE)
    asked = options("text", path, tmp_path / "interrupted")

    def interrupt(what: str, done: int, total: int) -> None:
        if what == "pack" and done > total / 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(asked, interrupt, workers=1)
    cache = cache_folder(asked) / "text"
    (partial,) = cache.glob("text-*/")
    assert partial.suffix == ".partial"
    (partial / "train-00099.arrow.1.aside").write_bytes(b"torn")
    finished = {path.name: path.stat().st_mtime_ns for path in partial.glob("train-*.arrow")}
    assert len(finished) > 3
    packed = prepare(asked, workers=1)
    assert {name: (packed.folder / name).stat().st_mtime_ns for name in finished} == finished
    assert contents(packed.folder) == contents(prepare(options("text", path, tmp_path / "whole"), workers=1).folder)
    assert not partial.exists()


def test_a_damaged_shard_is_packed_again(tmp_path: Path) -> None:
    asked = options("jsonl", write_rows(tmp_path / "a.jsonl", ROWS), tmp_path)
    whole = contents(prepare(asked).folder)
    shard = prepare(asked).folder / "train-00000.arrow"
    shard.write_bytes(shard.read_bytes()[:-100])
    assert contents(prepare(asked).folder) == whole


PROGRAM = """
import sys
from shardwright.trainers.data import documents
from shardwright.trainers.data.pack import prepare
from shardwright.trainers.options import DataOptions
documents.PART = 8 * documents.PIECE
report = lambda what, done, total: print(what, done, flush=True)
print(prepare(DataOptions(name="text", path=sys.argv[1], cache=sys.argv[2]), report, workers=2).folder)
"""


def packing(path: Path, cache: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", PROGRAM, str(path), str(cache)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)


def wait_until_packing(process: subprocess.Popen[str]) -> None:
    """Until two parts are done."""
    assert process.stdout is not None
    seen = 0
    while seen < 3:
        line = process.stdout.readline()
        assert line, process.communicate()
        seen += line.startswith("pack")


def group(leader: int) -> list[int]:
    """The processes of a group that are not dead."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, pgrp = path.read_text().rpartition(")")[2].split()[:3]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(pgrp) == leader and state != "Z":
            found.append(int(path.parent.name))
    return found


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGKILL])
def test_a_stopped_packing_leaves_no_process_and_nothing_half(sent: signal.Signals, tmp_path: Path) -> None:
    path = write_text(tmp_path / "a.txt", 1000 * PIECE)
    with packing(path, tmp_path / "cache") as process:
        wait_until_packing(process)
        assert len(group(process.pid)) == 3
        if sent == signal.SIGINT:
            os.killpg(process.pid, sent)  # what a terminal does: all of the group get it
        else:
            process.kill()
        error = process.communicate(timeout=30)[1]
        assert process.returncode == (-sent if sent == signal.SIGKILL else -signal.SIGINT)
        assert error.count("Traceback") == (sent == signal.SIGINT)  # the parent's own KeyboardInterrupt, no child's
    deadline = time.monotonic() + 30
    while group(process.pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert group(process.pid) == []
    assert [folder.suffix for folder in (tmp_path / "cache" / "text").glob("text-*/")] == [".partial"]
    with packing(path, tmp_path / "cache") as process:
        assert process.communicate(timeout=60)[0].splitlines()[-1].startswith(str(tmp_path / "cache"))


def test_ctrl_c_does_not_wait_for_a_part(tmp_path: Path) -> None:
    with packing(write_text(tmp_path / "a.txt", 1000 * PIECE), tmp_path / "cache") as process:
        wait_until_packing(process)
        for child in set(group(process.pid)) - {process.pid}:
            os.kill(child, signal.SIGSTOP)  # as if its part took for ever
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)
    assert group(process.pid) == []


def test_packing_processes_leave_ctrl_c_to_their_parent(tmp_path: Path) -> None:
    with packing(write_text(tmp_path / "a.txt", 1000 * PIECE), tmp_path / "cache") as process:
        wait_until_packing(process)
        for child in set(group(process.pid)) - {process.pid}:
            os.kill(child, signal.SIGINT)
        assert str(tmp_path) in process.communicate(timeout=60)[0]
        assert process.returncode == 0


def test_a_packing_process_ends_in_silence_when_nobody_listens(tmp_path: Path) -> None:
    path = write_text(tmp_path / "a.txt", PIECE)
    work = Work(str(tmp_path), "text", "", 0, None, 256)
    asked = json.dumps({"work": asdict(work), "number": 0, "spans": [Span(str(path), 0, PIECE, PIECE)]})
    command = [sys.executable, "-c", "from shardwright.trainers.data.workers import serve; serve()"]
    pipe = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, **pipe) as process:
        process.stdout.close()
        process.stdin.write(f"{asked}\n".encode() * 2)
        process.stdin.close()
        assert process.stderr.read() == b""
    assert read_result(work, 0) is not None


def test_a_packing_process_that_dies_is_reported(tmp_path: Path) -> None:
    with packing(write_text(tmp_path / "a.txt", 1000 * PIECE), tmp_path / "cache") as process:
        wait_until_packing(process)
        os.kill(max(group(process.pid)), signal.SIGKILL)
        error = process.communicate(timeout=30)[1]
    assert "a packing process ended early, exit code -9" in error


def test_two_runs_at_once_pack_once(tmp_path: Path) -> None:
    path = write_text(tmp_path / "a.txt", 500 * PIECE)
    processes = [packing(path, tmp_path / "cache") for _ in range(2)]
    outputs = []
    for process in processes:
        with process:
            outputs.append(process.communicate(timeout=60)[0].splitlines())
            assert process.returncode == 0
    assert outputs[0][-1] == outputs[1][-1]
    assert sorted(any(line.startswith("pack ") for line in output) for output in outputs) == [False, True]


def test_the_cache_is_where_the_environment_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder(DataOptions()) == tmp_path / "shardwright"
    assert cache_folder(DataOptions(cache="~/here")) == Path.home() / "here"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder(DataOptions()) == Path.home() / ".cache" / "shardwright"
