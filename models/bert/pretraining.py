"""What does BERT learn from running text? Pairs of sentences with masked tokens, drawn for each sample by itself.

A sample of T tokens becomes [CLS] A [SEP] B [SEP] of the same length: A is the first half of its first T - 3 tokens, B
the second. In half of the pairs B does not follow A: it begins at a drawn place in its own middle, and what it skipped
comes at its end. (The paper takes B from another document; a sample's pair would then depend on what else is in the
batch, and a layout would change it.)
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ..draw import bernoulli, integers
from ..layers.masking import chosen, masked
from .entry import BertConfig

SHORTEST = 8  # tokens of a sample: two of A, three of B, three special ones


@dataclass(frozen=True)
class Pairs:
    """A batch as BERT reads it, and what it should say."""

    inputs: Tensor  # int64 [B, T]
    segments: Tensor  # int64 [B, T]: 0 for [CLS] A [SEP], 1 for B [SEP]
    labels: Tensor  # int64 [B, T]: the token to guess, -100 elsewhere
    apart: Tensor  # int64 [B]: 1 where B does not follow A


def pairs(tokens: Tensor, key: Tensor, config: BertConfig) -> Pairs:
    """Draw what a batch is made into.

    Args:
        tokens: int64 [B, T]; key: int32 [B, 2].

    Raises:
        ValueError: T is below 8.
    """
    samples, length = tokens.shape
    end, apart = first_end(length), drawn_apart(key)
    cls, sep = (tokens.new_full((samples, 1), id) for id in (config.cls, config.sep))
    second = tokens.gather(1, end - 1 + turned(key, apart, length - 2 - end))
    whole = torch.cat((cls, tokens[:, : end - 1], sep, second, sep), 1)
    inputs, labels = masked(whole, key, allowed(length, tokens.device), config.mask, config.vocab_size)
    return Pairs(inputs, segments(samples, length, tokens.device), labels, apart)


def first_end(length: int) -> int:
    """Place of the first [SEP].

    Raises:
        ValueError: the sample is too short for a pair.
    """
    if length < SHORTEST:
        raise ValueError(f"a pair of sentences needs {SHORTEST} tokens, but a sample has {length}")
    return 1 + (length - 3) // 2


def segments(samples: int, length: int, device: torch.device) -> Tensor:
    """0 up to the first [SEP], 1 behind it: int64 [B, T]."""
    behind = torch.arange(length, device=device) > first_end(length)
    return behind.long().expand(samples, length)


def drawn_apart(key: Tensor) -> Tensor:
    """Whether the second sentence does not follow the first: int64 [B]."""
    return bernoulli(key, "bert.apart", 0.5, ()).long()


def turned(key: Tensor, apart: Tensor, size: int) -> Tensor:
    """The order in which a second sentence's tokens stand, int64 [B, size]."""
    start = integers(key, "bert.start", (), max(1, size // 4), size - size // 4)
    return (torch.arange(size, device=key.device) + (start * apart).unsqueeze(1)) % size


def allowed(length: int, device: torch.device) -> Tensor:
    """Tokens that may have to be guessed, bool [T]: all but the special ones."""
    free = torch.ones(length, dtype=torch.bool, device=device)
    free[[0, first_end(length), length - 1]] = False
    return free


def counts(batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """How many tokens of a batch are to be guessed, and how many pairs judged."""
    inputs, key = batch["inputs"], batch["key"]
    guessed = chosen(key, allowed(inputs.shape[1], inputs.device)).sum()
    return {"mlm": guessed, "nsp": torch.tensor(inputs.shape[0], device=inputs.device)}
