"""How does text become token ids, and ids text again?

Invariant: every document ends with the tokenizer's separator, if it has one, and no text of a document encodes to it
(bytes: byte 0, which text does not hold; bpe: <|endoftext|>, whose letters inside a text stay letters).
"""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..options import DataOptions
from .sources import is_packed

SEPARATORS = ("<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>", "[SEP]")  # the first that a tokenizer.json has
Ids = NDArray[np.int64] | NDArray[np.uint8]


class Tokenizer(Protocol):
    """Text to ids and back."""

    vocab_size: int  # ids are below it
    separator: int | None  # the id that ends a document

    def encode(self, texts: Sequence[bytes]) -> list[Ids]:
        """The ids of each text, without separators."""
        ...

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids; what is no whole character comes out as U+FFFD, separators as nothing."""
        ...


class ByteTokenizer:
    """Every byte of the UTF-8 text is its own id; 256 ids; byte 0 separates documents."""

    vocab_size = 256
    separator: int | None = 0

    def encode(self, texts: Sequence[bytes]) -> list[Ids]:
        """uint8 views of the texts."""
        return [np.frombuffer(text, np.uint8) for text in texts]

    def decode(self, ids: Iterable[int]) -> str:
        """The text, separators left out."""
        return bytes(id for id in ids if id).decode("utf-8", errors="replace")


class FileTokenizer:
    """A tokenizer.json of the `tokenizers` library, whether trained here or brought along."""

    def __init__(self, path: Path, vocab_size: int | None = None) -> None:
        loaded = _library().Tokenizer.from_file(str(path))
        loaded.no_truncation()
        loaded.no_padding()
        loaded.encode_special_tokens = True  # "<|endoftext|>" inside a text is text
        self._loaded = loaded
        self.vocab_size = vocab_size or 1 + max(loaded.get_vocab().values())
        self.separator: int | None = next((i for i in map(loaded.token_to_id, SEPARATORS) if i is not None), None)

    def encode(self, texts: Sequence[bytes]) -> list[Ids]:
        """The ids of each text; bytes that are no UTF-8 count as U+FFFD."""
        strings = [text.decode("utf-8", errors="replace") for text in texts]
        encoded = self._loaded.encode_batch_fast(strings, add_special_tokens=False)
        return [np.asarray(found.ids, np.int64) for found in encoded]

    def decode(self, ids: Iterable[int]) -> str:
        """The text, special tokens left out."""
        return str(self._loaded.decode([int(id) for id in ids if id != self.separator], skip_special_tokens=True))


def open_tokenizer(path: Path | None, vocab_size: int | None = None) -> Tokenizer:
    """The tokenizer of a tokenizer.json, or of bytes where there is none."""
    return FileTokenizer(path, vocab_size) if path else ByteTokenizer()


def train_bpe(texts: Iterable[str], vocab_size: int) -> str:
    """A byte-level BPE tokenizer (Sennrich et al. 2016; Radford et al. 2019) trained on texts, as its JSON.

    The same texts in the same order give the same JSON. A short text may yield fewer than vocab_size tokens.
    """
    library = _library()
    tokenizer = library.Tokenizer(library.models.BPE())
    tokenizer.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = library.decoders.ByteLevel()
    trainer = library.trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[SEPARATORS[0]],
        initial_alphabet=sorted(library.pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return str(tokenizer.to_str())


def vocabulary(options: DataOptions) -> int | None:
    """Number of ids that a job's model must know, told from [data] alone; None where only the data could tell.

    Raises:
        ValueError: the tokenizer.json cannot be read.
    """
    if not is_packed(options):
        return None
    if options.tokenizer == "bytes":
        return None if options.name == "arrow" else ByteTokenizer.vocab_size
    return options.vocab_size if options.tokenizer == "bpe" else _ids_in_file(Path(options.tokenizer).expanduser())


def _ids_in_file(path: Path) -> int:
    try:
        written = json.loads(path.read_bytes())
        vocab: Any = written["model"]["vocab"]
        ids = list(vocab.values()) if isinstance(vocab, dict) else list(range(len(vocab)))
        return 1 + max(ids + [token["id"] for token in written.get("added_tokens", [])])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"data.tokenizer = {str(path)!r} is not a readable tokenizer.json ({error!r})") from None


def _library() -> Any:
    try:
        import tokenizers
        import tokenizers.decoders
        import tokenizers.models
        import tokenizers.pre_tokenizers
        import tokenizers.trainers
    except ModuleNotFoundError:
        raise ValueError(
            "this tokenizer needs the tokenizers library: pip install 'shardwright[train]', or data.tokenizer = 'bytes'"
        ) from None
    return tokenizers
