"""What does Longformer compute? Read from the top: the Program, then what it is made of (Beltagy et al. 2020).

B samples, T tokens, C width, V vocabulary, H heads (of this rank, under tensor parallel), D = C / heads numbers of one
head, G leading tokens. Blocks with the norm behind each branch; a token attends to a window around it, and the leading
tokens, with projections of their own, to all.
"""

from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor, nn

from ..axes import ALONE, Axes
from ..draw import dropout
from ..layers.attention import Drop, attention
from ..layers.encoder import MaskedHead, PostNormBlock, initialise
from ..layers.masking import masked
from .band import banded
from .entry import RESERVED, LongformerConfig

Terms = dict[str, tuple[Tensor, Tensor]]
EPSILON = 1e-5  # of the layer norms


class Longformer(nn.Module):
    """The Program: a batch to the sum of the losses of its masked tokens, as the paper pretrains it.

    A pipeline stage sets `embed` or `head` to None and drops blocks; what is left keeps its name.
    """

    def __init__(self, config: LongformerConfig) -> None:
        super().__init__()
        self.config = config
        self.embed: Embed | None = Embed(config)
        self.blocks = nn.ModuleDict({str(layer): block(config, f"blocks.{layer}") for layer in range(config.layers)})
        self.head: MaskedHead | None = MaskedHead(config.width, self.embed.tokens.weight, EPSILON)
        initialise(self, partial(nn.init.normal_, std=0.02))

    def forward(self, batch: Mapping[str, Tensor], *state: Tensor) -> Terms | dict[str, Tensor] | tuple[Tensor, ...]:
        """The objective; the first of several answers that fits.

        Args:
            batch: "inputs" int64 [B, T] of running text, "key" int32 [B, 2], "targets" (any; Longformer draws its own).
                Without targets the inputs are read as they are.
            state: the residual stream [B, T, C], in a stage without `embed`.

        Returns:
            In a stage without `head`, the residual stream in a tuple. Without targets, {"logits": [B, T, V]}. Otherwise
            {"loss": (sum over masked tokens in nats, their number)}.

        Raises:
            ValueError: a sample has fewer than 3 tokens, or more than the context.
        """
        key, inputs, labels = batch.get("key"), batch["inputs"], None
        if "targets" in batch:
            inputs, labels = framed(inputs, batch["key"], self.config)
        x = self.embed(inputs, key) if self.embed is not None else state[0]
        for layer in self.blocks.values():
            x = layer(x, key)
        if self.head is None:
            return (x,)
        return {"logits": self.head(x)} if labels is None else {"loss": self.head.loss(x, labels)}


def framed(tokens: Tensor, key: Tensor, config: LongformerConfig) -> tuple[Tensor, Tensor]:
    """The first T - 2 tokens between start and end, with masks, and the labels: int64 [B, T] each.

    Raises:
        ValueError: T is below 3.
    """
    samples, length = tokens.shape
    if length < 3:
        raise ValueError(f"a sample has {length} tokens; start, end and one to guess are 3")
    start, end = (tokens.new_full((samples, 1), id) for id in (config.start, config.end))
    allowed = torch.ones(length, dtype=torch.bool, device=tokens.device)
    allowed[[0, -1]] = False
    return masked(torch.cat((start, tokens[:, :-2], end), 1), key, allowed, config.mask, config.vocab_size)


def block(config: LongformerConfig, name: str) -> PostNormBlock:
    """One block under its name."""
    attention = WindowAttention(config, f"{name}.attention")
    return PostNormBlock(attention, config.width, config.hidden, config.dropout, EPSILON, name)


class Embed(nn.Module):
    """Tokens [B, T] to the residual stream [B, T, C]; all tokens are of one segment."""

    def __init__(self, config: LongformerConfig) -> None:
        super().__init__()
        self.context, self.dropout = config.context, config.dropout
        self.tokens = nn.Embedding(config.vocab_size, config.width)
        self.positions = nn.Embedding(config.context + RESERVED, config.width)
        self.segment = nn.Parameter(torch.zeros(1, config.width))
        self.norm = nn.LayerNorm(config.width, eps=EPSILON)

    def forward(self, inputs: Tensor, key: Tensor | None) -> Tensor:
        length = inputs.shape[1]
        if length > self.context:
            raise ValueError(f"a sample has {length} tokens, but context={self.context}")
        places = torch.arange(RESERVED, RESERVED + length, device=inputs.device)
        x = self.norm(self.tokens(inputs) + self.positions(places) + self.segment)
        return dropout(x, self.dropout, key, "embed") if self.training else x


class WindowAttention(nn.Module):
    """Attention to a window, and of and to the leading tokens: [B, T, C] to [B, T, C].

    Under tensor parallel a rank holds the heads [index * H, (index + 1) * H) of its place on that axis.
    """

    axes: Axes = ALONE

    def __init__(self, config: LongformerConfig, name: str) -> None:
        super().__init__()
        self.name, self.dropout = name, config.dropout
        self.reach, self.leading = config.window // 2, config.leading
        self.heads, self.head_width = config.heads, config.width // config.heads
        width = config.width
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.global_query, self.global_key, self.global_value = (nn.Linear(width, width) for _ in range(3))
        self.output = nn.Linear(width, width)

    def forward(self, x: Tensor, key: Tensor | None) -> Tensor:
        query, keys, values = (self.split(layer(x)) for layer in (self.query, self.key, self.value))
        local = banded(query, keys, values, self.reach, self.leading, partial(self.drop, key=key))
        query = self.split(self.global_query(x[:, : self.leading]))
        keys, values = self.split(self.global_key(x)), self.split(self.global_value(x))
        drop = Drop(self.dropout, key, f"{self.name}.leading", self.heads) if self.training else None
        leading = attention(query, keys, values, axes=self.axes, drop=drop)
        mixed = torch.cat((leading, local[:, :, self.leading :]), 2)
        result: Tensor = self.output(mixed.transpose(1, 2).flatten(2))
        return result

    def split(self, x: Tensor) -> Tensor:
        """[B, T, H D] to [B, H, T, D]."""
        heads: Tensor = x.unflatten(-1, (-1, self.head_width))
        return heads.transpose(1, 2)

    def drop(self, weights: Tensor, key: Tensor | None) -> Tensor:
        """Dropout of probabilities [B, H, ...]; a head draws the same numbers on whichever rank it sits."""
        if not self.training:
            return weights
        local, *others = weights.shape[1:]
        start, extent = (self.axes.tensor.index * local, *[0] * len(others)), (self.heads, *others)
        return dropout(weights, self.dropout, key, f"{self.name}.window", start, extent)
