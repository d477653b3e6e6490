"""What does T5 compute? Read from the top: the Program, then what it is made of (Raffel et al. 2019).

B samples, S tokens that the encoder reads, U that the decoder writes, T either of them, C width, H heads (of this rank,
under tensor parallel), D numbers of a head. Pre-norm blocks without biases, attention scores that are not divided by
sqrt(D), and in each stack one table of relative positions that all its blocks add to their scores.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..axes import ALONE, Axes
from ..draw import dropout
from ..layers.attention import Drop, attention
from ..layers.collectives import enter, part
from ..layers.cross_entropy import cross_entropy
from ..layers.rms_norm import RMSNorm
from ..layers.sizes import LOGITS
from .entry import T5Config
from .spans import corrupt, shifted

Terms = dict[str, tuple[Tensor, Tensor]]
EPSILON = 1e-6  # of the norms


@dataclass(frozen=True)
class Texts:
    """A batch as T5 reads it, and what it should write."""

    inputs: Tensor  # int64 [B, S]
    written: Tensor  # int64 [B, U]: what the decoder has written before each token
    targets: Tensor | None  # int64 [B, U]


class T5(nn.Module):
    """The Program: a batch to the sum of the losses of the tokens that were taken out of it.

    A pipeline stage sets `embed`, `memory` or `head` to None and drops blocks; what is left keeps its name.
    """

    axes: Axes = ALONE

    def __init__(self, config: T5Config) -> None:
        super().__init__()
        self.config = config
        layers = range(config.layers)
        self.embed: Embed | None = Embed(config)
        self.encoder = nn.ModuleDict({str(layer): Block(config, f"encoder.{layer}") for layer in layers})
        self.memory: Memory | None = Memory(config)
        self.decoder = nn.ModuleDict({str(layer): DecoderBlock(config, f"decoder.{layer}") for layer in layers})
        self.head: Head | None = Head(config, self.embed.tokens.weight)
        initialise(self)

    def forward(self, batch: Mapping[str, Tensor], *state: Tensor) -> Terms | dict[str, Tensor] | tuple[Tensor, ...]:
        """The objective; the first of several answers that fits.

        Args:
            batch: "inputs" int64 [B, T] of running text, "key" int32 [B, 2], "targets" (any; T5 draws its own).
                Without targets the encoder reads the inputs as they are, and the decoder has written "written" int64
                [B, U] (the start alone, if it is absent).
            state: the tensors of `boundary`, in a stage without `embed`.

        Returns:
            In a stage without `head`, the tensors of `boundary`. Without targets, {"logits": [B, U, V]}. Otherwise
            {"loss": (sum over targets in nats, their number)}.

        Raises:
            ValueError: a sample has fewer than 2 tokens, or needs more sentinels than there are.
        """
        key = batch.get("key")
        texts = self.read(batch) if self.embed is not None or self.head is not None else None
        if self.embed is not None and texts is not None:
            state = self.embed(texts.inputs, texts.written, key)
        if self.embed is not None or len(self.encoder):
            state = self.encode(key, *state)
        if self.memory is not None:
            state = (self.memory(state[0], key), *state[1:])
        if len(self.decoder):
            state = self.decode(key, *state)
        if self.head is None or texts is None:
            return state
        result: Terms | dict[str, Tensor] = self.head(state[0], texts.targets, key)
        return result

    def read(self, batch: Mapping[str, Tensor]) -> Texts:
        """The batch with spans taken out, or as it is where nothing is to be predicted."""
        inputs = batch["inputs"]
        if "targets" in batch:
            inputs, targets = corrupt(inputs, batch["key"], self.config)
            return Texts(inputs, shifted(targets, self.config.start), targets)
        start = inputs.new_full((len(inputs), 1), self.config.start)
        return Texts(inputs, batch.get("written", start), None)

    def encode(self, key: Tensor | None, x: Tensor, y: Tensor, near: Tensor, far: Tensor) -> tuple[Tensor, ...]:
        """Through the encoder's blocks that are here; its table goes on where more of them follow."""
        if len(self.encoder):
            scores = self.scores(near, x.shape[1], two_sided=True)
            for block in self.encoder.values():
                x = block(x, scores, key)
        return (x, y, far) if str(self.config.layers - 1) in self.encoder else (x, y, near, far)

    def decode(self, key: Tensor | None, x: Tensor, y: Tensor, far: Tensor) -> tuple[Tensor, ...]:
        """Through the decoder's blocks that are here; the encoder's stream goes on where more of them follow."""
        scores = self.scores(far, y.shape[1], two_sided=False)
        for block in self.decoder.values():
            y = block(y, x, scores, key)
        return (y,) if str(self.config.layers - 1) in self.decoder else (x, y, far)

    def scores(self, table: Tensor, length: int, two_sided: bool) -> Tensor:
        """What relative positions add to the scores of this rank's heads: [buckets, heads] to [1, H, T, T]."""
        found = buckets(length, self.config.buckets, self.config.reach, two_sided, table.device)
        return part(table, self.axes.tensor, 1)[found].permute(2, 0, 1).unsqueeze(0)


def buckets(length: int, count: int, reach: int, two_sided: bool, device: torch.device) -> Tensor:
    """Which row of its table two tokens use, int64 [T, T] (asking, seen).

    Half of the buckets are for single distances, the others for ever longer stretches up to `reach`; two-sided, tokens
    before and behind have half of all buckets each, and else those behind count as distance 0 (they are not seen).
    """
    places = torch.arange(length, device=device)
    ahead = places - places[:, None]
    base = torch.zeros_like(ahead)
    if two_sided:
        count //= 2
        base, ahead = (ahead > 0) * count, -ahead.abs()
    distance, exact = (-ahead).clamp(min=0), count // 2
    far = torch.log(distance.clamp(min=1).float() / exact) / math.log(reach / exact) * (count - exact)
    return base + distance.where(distance < exact, (exact + far.long()).clamp(max=count - 1))


class Embed(nn.Module):
    """Both texts to residual streams [B, S, C] and [B, U, C], beside the tables of relative positions."""

    def __init__(self, config: T5Config) -> None:
        super().__init__()
        self.dropout = config.dropout
        self.tokens = nn.Embedding(config.vocab_size, config.width)
        self.near = nn.Embedding(config.buckets, config.heads)  # the encoder's table
        self.far = nn.Embedding(config.buckets, config.heads)  # the decoder's

    def forward(self, inputs: Tensor, written: Tensor, key: Tensor | None) -> tuple[Tensor, ...]:
        """The tables leave as copies: under ZeRO-3 the weights themselves are freed behind this unit."""
        x, y = self.tokens(inputs), self.tokens(written)
        if self.training:
            x, y = dropout(x, self.dropout, key, "embed.inputs"), dropout(y, self.dropout, key, "embed.written")
        return x, y, self.near.weight.clone(), self.far.weight.clone()


class Block(nn.Module):
    """A block of the encoder: attention and MLP, each of them added to the residual stream [B, S, C]."""

    def __init__(self, config: T5Config, name: str) -> None:
        super().__init__()
        self.name, self.dropout = name, config.dropout
        self.attention_norm, self.attention = RMSNorm(config.width, EPSILON), Attention(config, f"{name}.attention")
        self.mlp_norm, self.mlp = RMSNorm(config.width, EPSILON), MLP(config, f"{name}.mlp")

    def forward(self, x: Tensor, scores: Tensor, key: Tensor | None) -> Tensor:
        x = x + self.drop(self.attention(self.attention_norm(x), key, scores=scores), key, "attention")
        return x + self.drop(self.mlp(self.mlp_norm(x), key), key, "mlp")

    def drop(self, branch: Tensor, key: Tensor | None, which: str) -> Tensor:
        return dropout(branch, self.dropout, key, f"{self.name}.{which}.output") if self.training else branch


class DecoderBlock(Block):
    """A block of the decoder: causal attention, attention to the encoder's stream, MLP; y [B, U, C], x [B, S, C]."""

    def __init__(self, config: T5Config, name: str) -> None:
        super().__init__(config, name)
        self.memory_norm, self.memory = RMSNorm(config.width, EPSILON), Attention(config, f"{name}.memory")

    def forward(self, y: Tensor, x: Tensor, scores: Tensor, key: Tensor | None) -> Tensor:  # type: ignore[override]
        y = y + self.drop(self.attention(self.attention_norm(y), key, scores=scores, causal=True), key, "attention")
        y = y + self.drop(self.memory(self.memory_norm(y), key, memory=x), key, "memory")
        return y + self.drop(self.mlp(self.mlp_norm(y), key), key, "mlp")


class Attention(nn.Module):
    """Attention [B, T, C] to [B, T, C], among the tokens themselves or to those of a memory.

    Under tensor parallel a rank holds the heads [index * H, (index + 1) * H) of its place on that axis.
    """

    axes: Axes = ALONE

    def __init__(self, config: T5Config, name: str) -> None:
        super().__init__()
        self.name, self.dropout = name, config.dropout
        self.heads, self.head_width = config.heads, config.head_width
        inner = config.heads * config.head_width
        self.query, self.key, self.value = (nn.Linear(config.width, inner, bias=False) for _ in range(3))
        self.output = nn.Linear(inner, config.width, bias=False)

    def forward(
        self,
        x: Tensor,
        key: Tensor | None,
        memory: Tensor | None = None,
        scores: Tensor | None = None,
        causal: bool = False,
    ) -> Tensor:
        seen = x if memory is None else enter(memory, self.axes.tensor)  # x has entered in front of this module
        query, keys, values = (self.split(y) for y in (self.query(x), self.key(seen), self.value(seen)))
        drop = Drop(self.dropout, key, f"{self.name}.probabilities", self.heads) if self.training else None
        mixed = attention(query, keys, values, axes=self.axes, causal=causal, mask=scores, drop=drop, scale=1.0)
        result: Tensor = self.output(mixed.transpose(1, 2).flatten(2))
        return result

    def split(self, x: Tensor) -> Tensor:
        """[B, T, H D] to [B, H, T, D]."""
        heads: Tensor = x.unflatten(-1, (-1, self.head_width))
        return heads.transpose(1, 2)


class MLP(nn.Module):
    """Two layers with ReLU between them, or a gated GELU; under tensor parallel a rank holds a part of the middle."""

    axes: Axes = ALONE

    def __init__(self, config: T5Config, name: str) -> None:
        super().__init__()
        self.name, self.dropout, self.hidden = name, config.dropout, config.hidden
        gated = config.activation == "gated-gelu"
        self.gate = nn.Linear(config.width, config.hidden, bias=False) if gated else None
        self.expand = nn.Linear(config.width, config.hidden, bias=False)
        self.contract = nn.Linear(config.hidden, config.width, bias=False)

    def forward(self, x: Tensor, key: Tensor | None) -> Tensor:
        hidden = self.expand(x)
        hidden = F.relu(hidden) if self.gate is None else F.gelu(self.gate(x), approximate="tanh") * hidden
        if self.training:
            tokens, local = hidden.shape[1:]
            start, extent = (0, self.axes.tensor.index * local), (tokens, self.hidden)
            hidden = dropout(hidden, self.dropout, key, f"{self.name}.hidden", start, extent)
        result: Tensor = self.contract(hidden)
        return result


class Memory(nn.Module):
    """The end of the encoder: what the decoder attends to, [B, S, C]."""

    def __init__(self, config: T5Config) -> None:
        super().__init__()
        self.dropout, self.norm = config.dropout, RMSNorm(config.width, EPSILON)

    def forward(self, x: Tensor, key: Tensor | None) -> Tensor:
        x = self.norm(x)
        return dropout(x, self.dropout, key, "memory") if self.training else x


class Head(nn.Module):
    """The decoder's stream [B, U, C] to losses, or to logits [B, U, V]; scaled where the weight is the embedding."""

    def __init__(self, config: T5Config, weight: Tensor) -> None:
        super().__init__()
        self.dropout, self.norm = config.dropout, RMSNorm(config.width, EPSILON)
        self.scale = config.width**-0.5 if config.tied else 1.0
        self.weight = weight if config.tied else nn.Parameter(torch.empty_like(weight))

    def forward(self, y: Tensor, targets: Tensor | None, key: Tensor | None) -> Terms | dict[str, Tensor]:
        y = self.norm(y)
        y = self.scale * (dropout(y, self.dropout, key, "head") if self.training else y)
        if targets is None:
            return {"logits": F.linear(y, self.weight)}
        return {"loss": cross_entropy(y, self.weight, targets, LOGITS)}


def initialise(program: T5) -> None:
    """Normal weights as the paper's own code draws them: embeddings of deviation 1, matrices of 1 / sqrt(inputs), and
    queries smaller by sqrt(D), in the place of the scores' division.

    Draws from torch's default generator, which the caller seeds.
    """
    config = program.config
    assert program.embed is not None and program.head is not None
    for module in program.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=module.in_features**-0.5)
    for module in program.modules():
        if isinstance(module, Attention):
            nn.init.normal_(module.query.weight, std=(config.width * config.head_width) ** -0.5)
    nn.init.normal_(program.embed.tokens.weight)
    for table in (program.embed.near, program.embed.far):
        nn.init.normal_(table.weight, std=config.width**-0.5)
    if not config.tied:
        nn.init.normal_(program.head.weight, std=config.width**-0.5)
