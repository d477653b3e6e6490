"""What does BERT compute? Read from the top: the Program, then what it is made of (Devlin et al. 2018).

B samples, T tokens, C width, V vocabulary. Blocks with the norm behind each branch, learned positions, GELU by the
error function; two heads: masked tokens (MLM) and whether two sentences follow each other (NSP).
"""

from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..draw import dropout
from ..layers.encoder import Attention, MaskedHead, PostNormBlock, initialise
from .entry import BertConfig
from .pretraining import Pairs, pairs

Terms = dict[str, tuple[Tensor, Tensor]]
EPSILON = 1e-12  # of the layer norms


class Bert(nn.Module):
    """The Program: a batch to the sums of its two losses.

    A pipeline stage sets `embed` or `head` to None and drops blocks; what is left keeps its name.
    """

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.config = config
        self.embed: Embed | None = Embed(config)
        self.blocks = nn.ModuleDict({str(layer): block(config, f"blocks.{layer}") for layer in range(config.layers)})
        self.head: Heads | None = Heads(config, self.embed.tokens.weight)
        initialise(self, partial(nn.init.trunc_normal_, std=0.02, a=-0.04, b=0.04))

    def forward(self, batch: Mapping[str, Tensor], *state: Tensor) -> Terms | dict[str, Tensor] | tuple[Tensor, ...]:
        """The objective; the first of several answers that fits.

        Args:
            batch: "inputs" int64 [B, T] of running text, "key" int32 [B, 2], "targets" (any; BERT draws its own).
                Without targets the inputs are read as they are, with "segments" int64 [B, T] (0, if there are none).
            state: the residual stream [B, T, C], in a stage without `embed`.

        Returns:
            In a stage without `head`, the residual stream in a tuple. Without targets, {"logits": [B, T, V], "next":
            [B, 2]}. Otherwise "mlm": (sum over masked tokens in nats, their number) and "nsp": (the same over pairs).

        Raises:
            ValueError: a sample has fewer than 8 tokens, or more than the context.
        """
        key, read = batch.get("key"), self.read(batch)
        x = self.embed(read.inputs, read.segments, key) if self.embed is not None else state[0]
        for layer in self.blocks.values():
            x = layer(x, key)
        if self.head is None:
            return (x,)
        result: Terms | dict[str, Tensor] = self.head(x, read if "targets" in batch else None)
        return result

    def read(self, batch: Mapping[str, Tensor]) -> Pairs:
        """The batch as pairs of sentences, or as it is where nothing is to be predicted."""
        inputs = batch["inputs"]
        if "targets" in batch:
            return pairs(inputs, batch["key"], self.config)
        return Pairs(inputs, batch.get("segments", torch.zeros_like(inputs)), inputs, inputs)


def block(config: BertConfig, name: str) -> PostNormBlock:
    """One block under its name."""
    attention = Attention(config.width, config.heads, config.dropout, f"{name}.attention")
    return PostNormBlock(attention, config.width, config.hidden, config.dropout, EPSILON, name)


class Embed(nn.Module):
    """Tokens and segments [B, T] to the residual stream [B, T, C]."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.context, self.dropout = config.context, config.dropout
        self.tokens = nn.Embedding(config.vocab_size, config.width)
        self.positions = nn.Embedding(config.context, config.width)
        self.segments = nn.Embedding(2, config.width)
        self.norm = nn.LayerNorm(config.width, eps=EPSILON)

    def forward(self, inputs: Tensor, segments: Tensor, key: Tensor | None) -> Tensor:
        length = inputs.shape[1]
        if length > self.context:
            raise ValueError(f"a sample has {length} tokens, but context={self.context}")
        x = self.tokens(inputs) + self.segments(segments) + self.positions(torch.arange(length, device=inputs.device))
        x = self.norm(x)
        return dropout(x, self.dropout, key, "embed") if self.training else x


class Heads(nn.Module):
    """The residual stream [B, T, C] to both losses, or to both logits."""

    def __init__(self, config: BertConfig, weight: Tensor) -> None:
        super().__init__()
        self.tokens = MaskedHead(config.width, weight, EPSILON)
        self.pool, self.next = nn.Linear(config.width, config.width), nn.Linear(config.width, 2)

    def forward(self, x: Tensor, wanted: Pairs | None) -> Terms | dict[str, Tensor]:
        follows = self.next(torch.tanh(self.pool(x[:, 0])))
        if wanted is None:
            return {"logits": self.tokens(x), "next": follows}
        judged = F.cross_entropy(follows.float(), wanted.apart, reduction="sum")
        return {"mlm": self.tokens.loss(x, wanted.labels), "nsp": (judged, torch.tensor(float(x.shape[0])))}
