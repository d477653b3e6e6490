"""What does GPT-2 compute? Read from the top: the Program, then what it is made of.

B samples, T tokens of this rank, C width, H heads of this rank, D = C / heads numbers of one head, V vocabulary.
Pre-norm blocks, learned positions, GELU by tanh, and the token embedding as the last projection. Tokens may be split
over the context axis, and between split layers over the tensor axis (models/layers/tokens.py).
"""

from collections.abc import Mapping

from torch import Tensor, nn
from torch.nn import functional as F

from ..axes import ALONE, Axes
from ..draw import dropout
from ..layers.attention import Drop, attention
from ..layers.embedding import Embedding
from ..layers.head import Head
from ..layers.tokens import Tokens, places, tokens_of
from .entry import GPT2Config

Terms = dict[str, tuple[Tensor, Tensor]]


class GPT2(nn.Module):
    """The Program: a batch to the sum of its tokens' losses.

    A pipeline stage sets `embed` or `head` to None and drops blocks; what is left keeps its name.
    """

    axes: Axes = ALONE

    def __init__(self, config: GPT2Config) -> None:
        super().__init__()
        self.config = config
        self.embed: Embed | None = Embed(config)
        self.blocks = nn.ModuleDict({str(layer): Block(config, f"blocks.{layer}") for layer in range(config.layers)})
        self.head: Head | None = Head(nn.LayerNorm(config.width), self.embed.tokens.weight)
        initialise(self)

    def forward(self, batch: Mapping[str, Tensor], *state: Tensor) -> Terms | dict[str, Tensor] | tuple[Tensor, ...]:
        """The objective; the first of several answers that fits.

        Args:
            batch: "inputs" int64 [B, T]; "targets" int64 [B, T], -100 where nothing is to be predicted; "key" int32
                [B, 2], needed in training with dropout; "position" int64 [B, T] where the context axis is split.
            state: the residual stream [B, T, C], in a stage without `embed`.

        Returns:
            In a stage without `head`, the residual stream in a tuple. Without targets, {"logits": [B, T, V]}.
            Otherwise {"loss": (sum over targets in nats, number of targets)}.
        """
        key, tokens = batch.get("key"), tokens_of(batch, self.axes)
        x = self.embed(batch["inputs"], key, tokens) if self.embed is not None else state[0]
        for block in self.blocks.values():
            x = block(x, key, tokens)
        if self.head is None:
            return (x,)
        result: Terms | dict[str, Tensor] = self.head(x, batch.get("targets"))
        return result


class Embed(nn.Module):
    """Tokens [B, T] to the residual stream [B, T, C]."""

    def __init__(self, config: GPT2Config) -> None:
        super().__init__()
        self.context, self.dropout = config.context, config.dropout
        self.tokens = Embedding(config.vocab_size, config.width)
        self.positions = nn.Embedding(config.context, config.width)

    def forward(self, inputs: Tensor, key: Tensor | None, tokens: Tokens) -> Tensor:
        if tokens.whole > self.context:
            raise ValueError(f"a sample has {tokens.whole} tokens, but context={self.context}")
        x: Tensor = self.tokens(inputs)
        x = x + self.positions(places(tokens.between, x.shape[1], x.device))
        return drop(x, self.dropout, key, "embed", tokens) if self.training else x


class Block(nn.Module):
    """Attention and MLP, each of them added to the residual stream [B, T, C]."""

    def __init__(self, config: GPT2Config, name: str) -> None:
        super().__init__()
        self.name, self.dropout = name, config.dropout
        self.attention_norm = nn.LayerNorm(config.width)
        self.attention = Attention(config, f"{name}.attention")
        self.mlp_norm = nn.LayerNorm(config.width)
        self.mlp = MLP(config)

    def forward(self, x: Tensor, key: Tensor | None, tokens: Tokens) -> Tensor:
        x = x + self.drop(self.attention(self.attention_norm(x), key), key, "attention", tokens)
        return x + self.drop(self.mlp(self.mlp_norm(x)), key, "mlp", tokens)

    def drop(self, branch: Tensor, key: Tensor | None, which: str, tokens: Tokens) -> Tensor:
        return drop(branch, self.dropout, key, f"{self.name}.{which}.output", tokens) if self.training else branch


def drop(x: Tensor, p: float, key: Tensor | None, name: str, tokens: Tokens) -> Tensor:
    """Dropout of x [B, T, C] between split layers; a token draws the same numbers on whichever rank it sits."""
    return dropout(x, p, key, name, (tokens.between, 0), (tokens.whole, x.shape[2]))


class Attention(nn.Module):
    """Causal attention [B, T, C] to [B, T, C].

    Under tensor parallel a rank holds the heads [index * H, (index + 1) * H) of its place on that axis.
    """

    axes: Axes = ALONE

    def __init__(self, config: GPT2Config, name: str) -> None:
        super().__init__()
        self.name, self.dropout = name, config.dropout
        self.heads, self.head_width = config.heads, config.width // config.heads
        self.query, self.key, self.value = (nn.Linear(config.width, config.width) for _ in range(3))
        self.output = nn.Linear(config.width, config.width)

    def forward(self, x: Tensor, key: Tensor | None) -> Tensor:
        query, keys, values = (
            layer(x).unflatten(-1, (-1, self.head_width)).transpose(1, 2)  # [B, H, T, D]
            for layer in (self.query, self.key, self.value)
        )
        drop = Drop(self.dropout, key, f"{self.name}.probabilities", self.heads) if self.training else None
        mixed = attention(query, keys, values, axes=self.axes, causal=True, drop=drop)
        result: Tensor = self.output(mixed.transpose(1, 2).flatten(2))
        return result


class MLP(nn.Module):
    """Two layers with a hidden width of 4 C."""

    def __init__(self, config: GPT2Config) -> None:
        super().__init__()
        self.expand = nn.Linear(config.width, 4 * config.width)
        self.contract = nn.Linear(4 * config.width, config.width)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.contract(F.gelu(self.expand(x), approximate="tanh"))
        return result


def initialise(program: GPT2) -> None:
    """Weights from N(0, 0.02^2), those that end a residual branch by 1 / sqrt(2 layers) smaller; biases zero.

    Draws from torch's default generator, which the caller seeds.
    """
    for module in program.modules():
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=0.02)
        if isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)
    for module in program.modules():
        if isinstance(module, Block):
            for branch in (module.attention.output, module.mlp.contract):
                branch.weight.data.mul_((2 * program.config.layers) ** -0.5)
