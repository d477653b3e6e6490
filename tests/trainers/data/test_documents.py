"""Are documents the same however the work is cut, and is a bad row named?"""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shardwright.trainers.data import documents
from shardwright.trainers.data.documents import PIECE, Span, plan_parts, read_documents


def read(kind: str, path: Path, field: str = "text") -> list[object]:
    parts = plan_parts(kind, [path])
    return [document.content for part in parts for document in read_documents(kind, field, part)]


def spans(path: Path, step: int) -> list[Span]:
    size = path.stat().st_size
    return [Span(str(path), start, min(start + step, size), 0) for start in range(0, size, step)]


words = st.sampled_from([b"\n", b" ", "é".encode(), b"x" * 700, b"y" * PIECE, b"z\n" * 3000, "語".encode() * 4000])


@settings(max_examples=60, deadline=None)
@given(content=st.lists(words, min_size=1, max_size=12).map(b"".join))
def test_pieces_of_a_text_are_the_text_in_every_cut(content: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("text") / "a.txt"
    path.write_bytes(content)
    whole = [list(read_documents("text", "", spans(path, step * PIECE))) for step in (1, 2, 100)]
    assert whole[0] == whole[1] == whole[2]
    pieces = [bytes(document.content) for document in whole[0]]
    assert b"".join(pieces) == content
    assert max(map(len, pieces)) <= 2 * PIECE
    assert all(piece.decode() is not None for piece in pieces)  # no character is cut
    assert [document.follows for document in whole[0]] == [False] + [True] * (len(pieces) - 1)


def test_pieces_end_at_lines(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("".join(f"line {i}\n" for i in range(5000)))
    pieces = read("text", path)
    assert len(pieces) > 3
    assert all(bytes(piece).endswith(b"\n") for piece in pieces)


@settings(max_examples=50, deadline=None)
@given(rows=st.lists(st.text(min_size=1), min_size=1, max_size=30), step=st.integers(1, 300), blank=st.booleans())
def test_rows_of_jsonl_are_the_rows_in_every_cut(
    rows: list[str], step: int, blank: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("jsonl") / "a.jsonl"
    end = "\n\n" if blank else "\n"
    path.write_bytes(end.join(json.dumps({"text": row}) for row in rows).encode())
    found = [bytes(d.content) for d in read_documents("jsonl", "text", spans(path, step))]
    assert found == [row.encode(errors="replace") for row in rows]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"text": ', r"a\.jsonl, byte 15: not a line of JSON"),
        ('{"body": "x"}', "expected text under data.field = 'text', found 'body'"),
        ('{"text": 3}', "expected text"),
        ("[1]", "found a list"),
    ],
)
def test_a_bad_line_is_named(line: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(f'{{"text": "ok"}}\n{line}\n')
    with pytest.raises(ValueError, match=message):
        read("jsonl", path)


def test_parquet_rows_in_order_without_empty_cells(tmp_path: Path) -> None:
    rows = ["one", "", None, "four", *map(str, range(3000))]
    pq.write_table(pa.table({"other": range(len(rows)), "body": rows}), tmp_path / "a.parquet", row_group_size=100)
    found = read("parquet", tmp_path / "a.parquet", "body")
    assert found == [row.encode() for row in rows if row]


def test_parquet_is_cut_by_row_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "PART", PIECE)
    rows = [f"{i:0500d}" for i in range(1000)]
    pq.write_table(pa.table({"text": rows}), tmp_path / "a.parquet", row_group_size=100, compression="none")
    assert len(plan_parts("parquet", [tmp_path / "a.parquet"])) == 10
    assert read("parquet", tmp_path / "a.parquet") == [row.encode() for row in rows]


def test_parquet_refusals(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": [1, 2]}), path)
    with pytest.raises(ValueError, match=r"no column 'body' \(data\.field\); the file has 'text'"):
        read("parquet", path, "body")
    with pytest.raises(ValueError, match="holds int64, expected text"):
        read("parquet", path)
    path.write_text("no parquet at all")
    with pytest.raises(ValueError, match="not a parquet file"):
        read("parquet", path)


def write_arrow(path: Path, column: pa.Array, stream: bool = False) -> Path:
    table = pa.table({"ids": column})
    opened = pa.ipc.new_stream if stream else pa.ipc.new_file
    with opened(str(path), table.schema) as writer:
        writer.write_table(table, max_chunksize=2)
    return path


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("kind", [pa.list_(pa.int32()), pa.large_list(pa.uint16())])
def test_arrow_rows_are_documents(kind: pa.DataType, stream: bool, tmp_path: Path) -> None:
    path = write_arrow(tmp_path / "a.arrow", pa.array([[1, 2], [], None, [3], [4, 5, 6]], kind), stream)
    assert [np.asarray(row).tolist() for row in read("arrow", path, "ids")] == [[1, 2], [3], [4, 5, 6]]


def test_a_flat_column_is_cut_into_documents(tmp_path: Path) -> None:
    table = pa.table({"ids": pa.array(range(2 * PIECE + 5), pa.uint32())})
    with pa.ipc.new_file(str(tmp_path / "a.arrow"), table.schema) as writer:
        writer.write_table(table)
    found = [np.asarray(row) for row in read("arrow", tmp_path / "a.arrow", "ids")]
    assert [len(row) for row in found] == [PIECE, PIECE, 5]
    assert np.concatenate(found).tolist() == list(range(2 * PIECE + 5))


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (pa.array([[1, -1]]), "holds -1 to 1; a token is 0 to"),
        (pa.array([[2**32 - 1]], pa.list_(pa.uint32())), "a token is 0 to"),
        (pa.array([2**64 - 1], pa.uint64()), "a token is 0 to"),
        (pa.array([[1, None]]), "empty cells"),
        (pa.array(["text"]), "expected ints or lists of ints"),
    ],
)
def test_arrow_refusals(column: pa.Array, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        read("arrow", write_arrow(tmp_path / "a.arrow", column), "ids")


@pytest.mark.parametrize("content", [b"", b"no arrow at all"])
def test_a_file_that_is_no_arrow_is_named(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.arrow").write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.arrow: not an Arrow IPC file or stream"):
        read("arrow", tmp_path / "a.arrow", "ids")
    assert content or not plan_parts("arrow", [tmp_path / "a.arrow"])[0][0].bytes


def test_small_files_share_a_part_and_large_ones_are_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "PART", 2 * PIECE)
    sizes = [10, 10, 5 * PIECE, 10]
    paths = [tmp_path / f"{i}.txt" for i in range(4)]
    for path, size in zip(paths, sizes, strict=True):
        path.write_bytes(b"x" * size)
    parts = plan_parts("text", paths)
    assert [span for part in parts for span in part if span.bytes == 10] == [parts[0][0], parts[0][1], parts[-1][-1]]
    assert len(parts) > 2
    assert sum(span.bytes for part in parts for span in part) == sum(sizes)
