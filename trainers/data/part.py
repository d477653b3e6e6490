"""What does one worker do with one part of the source? It writes the part's two shards, then says so in a record.

Invariant: a part's record is the last of its files, so a part with a record is finished and is never packed twice.
"""

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .documents import Document, Span, fingerprint, read_documents
from .shards import ShardWriter
from .sources import write_aside
from .tokenizer import open_tokenizer

SIDES = ("train", "held_out")
ENCODED = 1 << 20  # bytes of text that are encoded in one call
Result = dict[str, dict[str, int]]  # tokens, documents and text_bytes of each side


@dataclass(frozen=True)
class Work:
    """What all parts have in common; JSON can carry it."""

    folder: str
    kind: str
    field: str
    threshold: int  # documents with a fingerprint below it are held out
    tokenizer: str | None  # a tokenizer.json; None: bytes, or tokens as they are
    vocab_size: int


def shard_name(side: str, number: int) -> str:
    """File name of a part's shard."""
    return f"{side}-{number:05d}.arrow"


def _record(work: Work, number: int) -> Path:
    return Path(work.folder, "parts", f"{number:05d}.json")


def read_result(work: Work, number: int) -> Result | None:
    """The result of a part that is finished, else None."""
    try:
        return dict(json.loads(_record(work, number).read_bytes()))
    except FileNotFoundError:
        return None


def read_counts(work: Work, number: int) -> NDArray[np.int64]:
    """How often each id occurs in a finished part, int64 [vocab_size]."""
    counts: NDArray[np.int64] = np.load(_record(work, number).with_suffix(".npy"), allow_pickle=False)
    return counts


def pack_part(work: Work, number: int, spans: Iterable[Span]) -> Result:
    """Pack the documents of some spans into the part's shards.

    Raises:
        ValueError: a row cannot be read, or a token is outside the vocabulary.
    """
    encode = _passing(work) if work.kind == "arrow" else _encoding(work)
    writers = {side: ShardWriter(Path(work.folder, shard_name(side, number)), work.vocab_size) for side in SIDES}
    result: Result = {what: dict.fromkeys(SIDES, 0) for what in ("tokens", "documents", "text_bytes")}
    for batch in _batched(_sided(work, read_documents(work.kind, work.field, spans))):
        for side, ids, size in encode(batch):
            writers[side].append(ids)
            result["documents"][side] += 1
            result["text_bytes"][side] += size
    return _publish(work, number, writers, result)


def _publish(work: Work, number: int, writers: dict[str, ShardWriter], result: Result) -> Result:
    for side, writer in writers.items():
        writer.publish()
        result["tokens"][side] = writer.tokens
    record = _record(work, number)
    record.parent.mkdir(exist_ok=True)
    np.save(record.with_suffix(".npy"), sum(writer.counts for writer in writers.values()), allow_pickle=False)
    write_aside(record, json.dumps(result).encode())
    return result


class Sided(NamedTuple):
    """A document, its side, and whether a separator ends it."""

    document: Document
    side: str
    ends: bool


def _sided(work: Work, documents: Iterable[Document]) -> Iterator[Sided]:
    """Each document with its side. No separator stands between two pieces of one file that land on the same side."""
    before: tuple[Document, str] | None = None
    for document in documents:
        side = SIDES[fingerprint(document.content) < work.threshold]
        if before:
            yield Sided(*before, ends=not (document.follows and side == before[1]))
        before = document, side
    if before:
        yield Sided(*before, ends=True)


def _batched(documents: Iterable[Sided]) -> Iterator[list[Sided]]:
    batch: list[Sided] = []
    size = 0
    for found in documents:
        batch.append(found)
        size += len(found.document.content)
        if size >= ENCODED:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


Encoded = Iterator[tuple[str, NDArray[Any], int]]  # side, ids and bytes of text of each document


def _encoding(work: Work) -> Callable[[list[Sided]], Encoded]:
    """Text to ids, a separator behind each document that ends."""
    tokenizer = open_tokenizer(Path(work.tokenizer) if work.tokenizer else None, work.vocab_size)

    def encode(batch: list[Sided]) -> Encoded:
        texts = [bytes(found.document.content) for found in batch]
        for found, text, ids in zip(batch, texts, tokenizer.encode(texts), strict=True):
            end = tokenizer.separator if found.ends else None
            yield found.side, ids if end is None else np.append(ids, np.array(end, ids.dtype)), len(text)

    return encode


def _passing(work: Work) -> Callable[[list[Sided]], Encoded]:
    """Tokens as they are; with their tokenizer the bytes of held-out text are counted."""
    tokenizer = open_tokenizer(Path(work.tokenizer), work.vocab_size) if work.tokenizer else None

    def encode(batch: list[Sided]) -> Encoded:
        for document, side, _ in batch:
            ids = np.asarray(document.content)
            yield side, ids, len(tokenizer.decode(ids).encode()) if tokenizer and side == "held_out" else 0

    return encode
