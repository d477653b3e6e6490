"""What does a run read? A training set and a held-out set, both map-style, and what is known of them. Without torch.

A data set has a length and gives item i; an item is a dict of arrays, tensors or numbers, or a tuple of them. One that
also has `fetch(indices)` gives a whole batch at once, as a dict of arrays whose first dim is the sample.

B samples of a batch, T tokens of a sample.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ...models.entry import load_object
from ..options import DataOptions
from .pack import PackedText, prepare, silent
from .samples.shipped import SHIPPED, load_shipped
from .shards import TokenStream
from .slots import Slots
from .sources import Progress, check_source, is_packed
from .tokenizer import Tokenizer


class MapStyle(Protocol):
    """Random access to samples."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


class TokenSamples:
    """Packed tokens as samples: sample i is the T + 1 tokens from i * T on, the targets one token behind the inputs.

    Raises:
        ValueError: there are fewer than T + 1 tokens.
    """

    def __init__(self, stream: TokenStream, sequence_length: int, side: str = "train") -> None:
        self._stream, self._length = stream, sequence_length
        if len(stream) <= sequence_length:
            advice = "more text" if side == "train" else "a larger data.held_out"
            raise ValueError(
                f"the {side} side holds {len(stream)} tokens, and a sample needs data.sequence_length + 1 = "
                f"{sequence_length + 1}; give {advice} or a smaller sequence_length"
            )

    def __len__(self) -> int:
        return (len(self._stream) - 1) // self._length

    def __getitem__(self, index: int, /) -> dict[str, NDArray[np.int64]]:
        return {name: rows[0] for name, rows in self.fetch(np.array([index])).items()}

    def fetch(self, indices: NDArray[np.int64]) -> dict[str, NDArray[np.int64]]:
        """Inputs and targets, int64 [B, T] each.

        Raises:
            IndexError: an index is not in [0, len).
        """
        if indices.size and not 0 <= indices.min() <= indices.max() < len(self):
            raise IndexError(f"samples {indices.min()} to {indices.max()} of {len(self)}")
        rows = self._stream.rows(indices * self._length, self._length + 1)
        return {"inputs": np.ascontiguousarray(rows[:, :-1]), "targets": np.ascontiguousarray(rows[:, 1:])}


@dataclass(frozen=True)
class Data:
    """What a run reads, and what is known of it."""

    train: MapStyle
    held_out: MapStyle | None
    identity: str  # hash of the content; for a data set of the user's own, of its name and length
    summary: Mapping[str, Any]  # sizes, for people and records
    files: tuple[Mapping[str, Any], ...] = ()  # name, bytes and sha256 of every source file
    tokens_per_sample: int | None = None
    vocab_size: int | None = None
    bytes_per_token: float | None = None  # of held-out text: bits per byte = loss / (ln 2 x this)
    unigram_entropy: float | None = None  # of the corpus, nats per token: what a model without context reaches
    tokenizer: Tokenizer | None = field(default=None, repr=False)

    def encode(self, text: str) -> list[int]:
        """Ids of a text, without a separator.

        Raises:
            ValueError: no tokenizer is known.
        """
        if self.tokenizer is None:
            raise ValueError("this data has no tokenizer, so text cannot become tokens")
        return [int(id) for id in self.tokenizer.encode([text.encode()])[0]]

    def decode(self, ids: Any) -> str | None:
        """Text of ids; None where no tokenizer is known."""
        return self.tokenizer.decode(int(id) for id in ids) if self.tokenizer else None


def open_data(options: DataOptions, kind: str, progress: Progress = silent, workers: int | None = None) -> Data:
    """The data of a run, packed first if that was not done before.

    kind: what the entry reads, "tokens" or "samples".

    Raises:
        ValueError: [data] is wrong, or does not give what the entry reads, or the entry reads none.
        ModuleNotFoundError: the user's module cannot be found.
    """
    if kind == "experience":
        raise ValueError("the model makes its samples by acting: there is no data to read")
    if options.name in SHIPPED:
        return _shipped(options, kind)
    if not is_packed(options):
        return _own(options, kind)
    if kind != "tokens":
        raise ValueError(
            f"data.name = {options.name!r} gives tokens, but the model's entry says data = {kind!r}; name a data set "
            "with data.name = 'package.module:object', or say data='tokens' in the entry"
        )
    return packed_data(prepare(options, progress, workers), options.sequence_length)


def slot_data(slots: int) -> Data:
    """What an entry reads that makes its samples by acting: the numbers of so many slots, and nothing held out."""
    identity = hashlib.sha256(f"{slots} slots".encode()).hexdigest()
    return Data(Slots(slots), None, identity, {"source": "experience", "slots": slots})


def packed_data(packed: PackedText, sequence_length: int) -> Data:
    """Packed text as samples of sequence_length tokens.

    Raises:
        ValueError: a side holds less than one sample.
    """
    manifest = packed.manifest
    sides = {side: packed.stream(side) for side, tokens in manifest["tokens"].items() if tokens}
    sets = {side: TokenSamples(stream, sequence_length, side) for side, stream in sides.items()}
    return Data(
        train=sets["train"],
        held_out=sets.get("held_out"),
        identity=packed.identity,
        summary=packed.summary,
        files=tuple(manifest["files"]),
        tokens_per_sample=sequence_length,
        vocab_size=packed.vocab_size,
        bytes_per_token=packed.bytes_per_token,
        unigram_entropy=manifest["unigram_entropy"],
        tokenizer=packed.tokenizer,
    )


def _shipped(options: DataOptions, kind: str) -> Data:
    if kind != "samples":
        raise ValueError(f"data.name = {options.name!r} gives samples, but the model's entry says data = {kind!r}")
    check_source(options)
    train = load_shipped(options.name)
    sizes = {"train": len(train), "held_out": len(train.held_out or ())}
    shapes = {name: list(shape) for name, shape in train.shapes.items()}
    summary = {"source": options.name, "samples": sizes, "shapes": shapes, "classes": train.classes}
    return Data(train, train.held_out, train.identity, summary)


def _own(options: DataOptions, kind: str) -> Data:
    train = _map_style(load_object(options.name), options.name)
    found = getattr(train, "held_out", None)
    held_out = None if found is None else _map_style(found, f"{options.name}'s held_out")
    if kind == "tokens" and not (isinstance(item := train[0], Mapping) and {"inputs", "targets"} <= item.keys()):
        raise ValueError(
            f"the model reads tokens: an item of {options.name} must be a dict with 'inputs' and 'targets'"
        )
    sizes = {"train": len(train), "held_out": 0 if held_out is None else len(held_out)}
    identity = hashlib.sha256(f"{options.name} {sizes}".encode()).hexdigest()
    length = len(train[0]["inputs"]) if kind == "tokens" else None
    return Data(train, held_out, identity, {"source": options.name, "samples": sizes}, tokens_per_sample=length)


def _map_style(found: Any, name: str) -> MapStyle:
    """The object itself, or what it returns if it is a class or a function.

    Raises:
        ValueError: that is no map-style data set, or it is empty.
    """
    if callable(found) and (isinstance(found, type) or not hasattr(found, "__getitem__")):
        found = found()
    if not (hasattr(found, "__len__") and hasattr(found, "__getitem__")):
        raise ValueError(
            f"{name} is a {type(found).__name__}, not a map-style data set: it needs __len__ and __getitem__"
        )
    if not len(found):
        raise ValueError(f"{name} is empty")
    dataset: MapStyle = found
    return dataset
