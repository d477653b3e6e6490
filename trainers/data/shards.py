"""How do tokens lie on disk? As Arrow IPC files of one column "tokens", read through a memory map without copies.

Invariant: a file under its final name is whole; it was written aside, flushed to the disk and renamed.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

Tokens = NDArray[Any]  # uint8, uint16 or uint32
BATCH = 4 * 1024 * 1024  # tokens of one record batch, at least, but for the last


def token_dtype(vocab_size: int) -> np.dtype[Any]:
    """The narrowest unsigned integer that holds ids below vocab_size.

    Raises:
        ValueError: there are more ids than 32 bits can name.
    """
    for bits in (8, 16, 32):
        if vocab_size <= 1 << bits:
            return np.dtype(f"uint{bits}")
    raise ValueError(f"a vocabulary of {vocab_size} does not fit 32 bits")


class ShardWriter:
    """Writes one shard; nothing appears under `path` before `publish`, and nothing at all if no token came."""

    def __init__(self, path: Path, vocab_size: int) -> None:
        self.tokens = 0
        self.counts = np.zeros(vocab_size, np.int64)  # how often each id was written
        self._path, self._dtype = path, token_dtype(vocab_size)
        self._aside = path.with_name(f"{path.name}.{os.getpid()}.aside")
        self._schema = pa.schema([pa.field("tokens", pa.from_numpy_dtype(self._dtype), nullable=False)])
        self._waiting: list[NDArray[Any]] = []
        self._waiting_tokens = 0
        self._writer: Any = None

    def append(self, ids: NDArray[Any]) -> None:
        """Add ids, integers [n], each below the vocabulary's size."""
        self._waiting.append(ids)
        self._waiting_tokens += len(ids)
        if self._waiting_tokens >= BATCH:
            self._flush()

    def _flush(self) -> None:
        ids = np.concatenate(self._waiting)
        self._waiting, self._waiting_tokens = [], 0
        if len(found := np.bincount(ids, minlength=len(self.counts))) > len(self.counts):
            raise ValueError(f"token {len(found) - 1} is outside the vocabulary of {len(self.counts)}")
        self.counts += found
        self.tokens += len(ids)
        if self._writer is None:
            self._aside.parent.mkdir(parents=True, exist_ok=True)
            self._writer = pa.ipc.new_file(str(self._aside), self._schema)
        self._writer.write_batch(pa.record_batch([pa.array(ids.astype(self._dtype, copy=False))], schema=self._schema))

    def publish(self) -> None:
        """Close the shard and give it its name."""
        if self._waiting_tokens:
            self._flush()
        if self._writer is None:
            return
        self._writer.close()
        with self._aside.open("rb") as file:
            os.fsync(file.fileno())
        self._aside.replace(self._path)


class TokenStream:
    """The tokens of several shards as one sequence; nothing is read before it is asked for."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._chunks = [chunk for path in paths for chunk in _map_shard(path)]
        self._starts = np.cumsum([0, *map(len, self._chunks)])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def rows(self, starts: NDArray[np.int64], length: int) -> NDArray[np.int64]:
        """The tokens [start, start + length) of each start, int64 [len(starts), length].

        Raises:
            IndexError: a row leaves the stream.
        """
        if starts.size and not 0 <= starts.min() <= starts.max() <= len(self) - length:
            raise IndexError(f"tokens {starts.min()} to {starts.max() + length} of a stream of {len(self)}")
        out = np.empty((len(starts), length), np.int64)
        places = np.searchsorted(self._starts, starts, side="right") - 1
        for row, chunk, offset in zip(out, places.tolist(), (starts - self._starts[places]).tolist(), strict=True):
            found = self._chunks[chunk][offset : offset + length]
            row[: len(found)] = found
            if len(found) < length:
                self._continue(row, chunk + 1, len(found))
        return out

    def _continue(self, row: NDArray[np.int64], chunk: int, filled: int) -> None:
        """Fill the rest of a row from the chunks behind its first."""
        while filled < len(row):
            found = self._chunks[chunk][: len(row) - filled]
            row[filled : filled + len(found)] = found
            filled, chunk = filled + len(found), chunk + 1


def _map_shard(path: Path) -> list[Tokens]:
    """One array for each record batch, backed by the file's memory map."""
    reader = pa.ipc.open_file(pa.memory_map(str(path)))
    batches = (reader.get_batch(number) for number in range(reader.num_record_batches))
    return [batch.column(0).to_numpy(zero_copy_only=True) for batch in batches]
