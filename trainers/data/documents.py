"""What are the documents of a source, and how is the reading of them cut into parts that workers can share?

Invariant: the documents and their order depend on the files alone; the cut into spans never moves a document's edge.

A document is a file of the standard library, a row of jsonl, parquet or arrow, and, in plain text, a piece of about
8 KiB that ends at a line's end, so that a single long file can be split too.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

PIECE = 8 * 1024  # bytes of text, or tokens of a flat column of tokens, in one document
PART = 16 * 1024 * 1024  # bytes of one part of the work, at least
MOST_PARTS = 256  # parts of one source, about: each leaves two files that stay mapped
MOST_IDS = 1 << 24  # ids of pre-tokenized data; beyond it a number is a mistake, such as -1 written unsigned


class Span(NamedTuple):
    """A stretch of one file: bytes [start, stop) of text and jsonl, row groups of parquet, batches of arrow."""

    path: str
    start: int
    stop: int
    bytes: int


class Document(NamedTuple):
    """The bytes of a text, or the tokens of a pre-tokenized row."""

    content: bytes | NDArray[np.int64]
    follows: bool = False  # goes on where the document before it ended, in the middle of a text file


def fingerprint(content: bytes | NDArray[np.int64]) -> int:
    """64-bit hash of a document's content: the same in every order, on every machine."""
    data = content if isinstance(content, bytes) else content.tobytes()
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "big")


def plan_parts(kind: str, paths: Iterable[Path]) -> list[list[Span]]:
    """The work in parts of at least PART bytes: small files together, large ones cut where the format allows."""
    paths = list(paths)
    limit = max(PART, sum(path.stat().st_size for path in paths) // MOST_PARTS // PIECE * PIECE)
    parts: list[list[Span]] = [[]]
    filled = 0
    for span in (span for path in paths for span in _spans(kind, path, limit)):
        if filled >= limit:
            parts.append([])
            filled = 0
        parts[-1].append(span)
        filled += span.bytes
    return parts


def _spans(kind: str, path: Path, limit: int) -> Iterator[Span]:
    size = path.stat().st_size
    if kind in ("text", "jsonl"):
        for start in range(0, size, limit):
            stop = min(start + limit, size)
            yield Span(str(path), start, stop, stop - start)
    elif kind == "parquet":
        groups = _parquet(path).metadata.num_row_groups
        yield from (Span(str(path), group, group + 1, size // groups) for group in range(groups))
    else:
        yield Span(str(path), 0, size, size)


def read_documents(kind: str, field: str, spans: Iterable[Span]) -> Iterator[Document]:
    """The documents of some spans, in order; empty ones are left out.

    Raises:
        ValueError: a row cannot be read as the kind says, naming the file and the place.
    """
    readers = {"stdlib": _whole, "text": _pieces, "jsonl": _lines, "parquet": _row_group, "arrow": _token_rows}
    for span in spans:
        yield from (document for document in readers[kind](span, field) if len(document.content))


def _whole(span: Span, field: str) -> Iterator[Document]:
    yield Document(Path(span.path).read_bytes())


def _pieces(span: Span, field: str) -> Iterator[Document]:
    """Pieces of a text file. Edge k is near byte k * PIECE of the file, so it is the same in every cut into spans."""
    with Path(span.path).open("rb") as file:
        start = _edge(file, span.start)
        for nominal in range(span.start + PIECE, span.stop + PIECE, PIECE):
            stop = _edge(file, nominal)
            file.seek(start)
            yield Document(file.read(stop - start), follows=start > 0)
            start = stop


def _edge(file: Any, nominal: int) -> int:
    """First line's end at or after `nominal`; without one within a piece, the first space; else a whole character."""
    if nominal == 0:
        return 0
    file.seek(nominal)
    ahead = file.read(PIECE)
    for mark in (b"\n", b" "):
        found = ahead.find(mark)
        if found >= 0:
            return int(nominal + found + 1)
    continuation = next((i for i, byte in enumerate(ahead[:4]) if byte & 0xC0 != 0x80), 0)
    return int(nominal + continuation) if ahead else nominal


def _lines(span: Span, field: str) -> Iterator[Document]:
    """Rows of jsonl whose line starts inside the span."""
    with Path(span.path).open("rb") as file:
        if span.start:
            file.seek(span.start - 1)
            file.readline()
        place = file.tell()
        while place < span.stop and (line := file.readline()):
            if line.strip():
                yield Document(_text_of(line, field, f"{span.path}, byte {place}"))
            place += len(line)


def _text_of(line: bytes, field: str, place: str) -> bytes:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise ValueError(f"{place}: not a line of JSON ({error})") from None
    if not isinstance(row, dict) or not isinstance(row.get(field), str):
        keys = ", ".join(map(repr, row)) if isinstance(row, dict) else f"a {type(row).__name__}"
        raise ValueError(f"{place}: expected text under data.field = {field!r}, found {keys}")
    return str(row[field]).encode(errors="replace")


def _parquet(path: str | Path) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(path)
    except pa.ArrowInvalid as error:
        raise ValueError(f"{path}: not a parquet file ({error})") from None


def _row_group(span: Span, field: str) -> Iterator[Document]:
    import pyarrow as pa

    with _parquet(span.path) as file:
        _check_column(file.schema_arrow, field, span.path)
        kind = file.schema_arrow.field(field).type
        if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_binary(kind)):
            raise ValueError(f"{span.path}: column {field!r} holds {kind}, expected text (data.field names the column)")
        for group in range(span.start, span.stop):
            for batch in file.iter_batches(batch_size=1024, row_groups=[group], columns=[field]):
                yield from (Document(text) for text in batch.column(0).cast(pa.large_binary()).to_pylist() if text)


def _token_rows(span: Span, field: str) -> Iterator[Document]:
    """Rows of a column of lists of ints; a flat column of ints is cut into documents of PIECE tokens."""
    import pyarrow as pa

    with pa.memory_map(span.path) as mapped:
        for batch in _batches(mapped, span.path):
            _check_column(batch.schema, field, span.path)
            column = batch.column(field)
            flat = pa.types.is_integer(column.type)
            if not flat and not _is_int_list(column.type):
                raise ValueError(f"{span.path}: column {field!r} holds {column.type}, expected ints or lists of ints")
            rows = (column[i : i + PIECE] for i in range(0, len(column), PIECE)) if flat else (r.values for r in column)
            yield from (Document(_tokens(row, span.path, field)) for row in rows if row is not None)


def _is_int_list(kind: Any) -> bool:
    import pyarrow as pa

    lists = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    return bool(lists and pa.types.is_integer(kind.value_type))


def _tokens(row: Any, path: str, field: str) -> NDArray[np.int64]:
    if row.null_count:
        raise ValueError(f"{path}: column {field!r} has empty cells; a token is an integer, 0 or more")
    tokens = np.asarray(row.to_numpy(zero_copy_only=False), np.int64)
    if tokens.size and not 0 <= tokens.min() <= tokens.max() < MOST_IDS:
        low, high = tokens.min(), tokens.max()
        raise ValueError(f"{path}: column {field!r} holds {low} to {high}; a token is 0 to {MOST_IDS - 1}")
    return tokens


def _batches(mapped: Any, path: str) -> Iterator[Any]:
    """Record batches of an IPC file or, if it is none, of an IPC stream (the form of Hugging Face caches)."""
    import pyarrow as pa

    try:
        try:
            file = pa.ipc.open_file(mapped)
        except pa.ArrowInvalid:
            mapped.seek(0)
            yield from pa.ipc.open_stream(mapped)
            return
        yield from (file.get_batch(i) for i in range(file.num_record_batches))
    except pa.ArrowInvalid as error:
        raise ValueError(f"{path}: not an Arrow IPC file or stream ({error})") from None


def _check_column(schema: Any, field: str, path: str) -> None:
    if field not in schema.names:
        raise ValueError(f"{path}: no column {field!r} (data.field); the file has {', '.join(map(repr, schema.names))}")
