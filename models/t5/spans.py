"""Which part of a text has T5 to restore? Spans drawn for each sample by itself (Raffel et al. 2019, section 3.1.4).

A sentinel stands in the text for each span; the decoder writes each sentinel and the span behind it. How much is taken
out and in how many spans follows from the text's length, so all shapes are fixed; where, is drawn.
B samples, T tokens of the text.
"""

import torch
from torch import Tensor

from ..draw import permutation
from .entry import Lengths, T5Config, lengths


def corrupt(tokens: Tensor, key: Tensor, config: T5Config) -> tuple[Tensor, Tensor]:
    """What the encoder reads, int64 [B, S], and what the decoder has to write, int64 [B, U].

    Args:
        tokens: int64 [B, T]; key: int32 [B, 2].

    Raises:
        ValueError: T is below 2, or needs more sentinels than there are.
    """
    size = check_length(tokens.shape[1], config)
    left = parts(key, "t5.left", tokens.shape[1] - size.noise, size.spans)
    taken = parts(key, "t5.taken", size.noise, size.spans)
    ends = torch.stack((left, taken), -1).flatten(1).cumsum(-1)
    places = torch.arange(tokens.shape[1], device=tokens.device).repeat(len(tokens), 1)
    number = torch.searchsorted(ends, places, right=True)  # of the span: text and noise in turn
    noise, sentinels = number % 2 == 1, config.sentinel - number // 2
    first = torch.diff(number, prepend=number.new_full((len(tokens), 1), -1)) > 0
    inputs = picked(tokens.where(~noise, sentinels), ~noise | first, size.inputs - 1)
    targets = picked(tokens.where(noise, sentinels), noise | first, size.targets - 1)
    end = tokens.new_full((len(tokens), 1), config.end)
    return torch.cat((inputs, end), 1), torch.cat((targets, end), 1)


def check_length(tokens: int, config: T5Config) -> Lengths:
    """Lengths of a sample's parts.

    Raises:
        ValueError: it is too short or too long.
    """
    if tokens < 2:
        raise ValueError(f"a sample has {tokens} token; to take a span out of it takes at least 2")
    size = lengths(config, tokens)
    if size.spans > config.sentinels:
        raise ValueError(f"a sample of {tokens} tokens needs {size.spans} sentinels, but sentinels={config.sentinels}")
    return size


def parts(key: Tensor, name: str, items: int, count: int) -> Tensor:
    """Sizes of the parts of a row of items cut at random, each at least 1: int64 [B, count]."""
    cut = permutation(key, name, items - 1) < count - 1  # behind which items
    inside = torch.cat((cut.new_zeros(len(key), 1), cut), 1).cumsum(-1)
    return torch.zeros(len(key), count, dtype=torch.int64, device=key.device).scatter_add_(
        1, inside, torch.ones_like(inside)
    )


def picked(values: Tensor, chosen: Tensor, count: int) -> Tensor:
    """The chosen values of each row in their order; each row has `count` of them."""
    order = (~chosen).to(torch.uint8).argsort(dim=-1, stable=True)
    return values.gather(1, order[:, :count])


def shifted(targets: Tensor, start: int) -> Tensor:
    """What the decoder has written before each token: the start, then the targets but the last."""
    return torch.cat((targets.new_full((len(targets), 1), start), targets[:, :-1]), 1)
