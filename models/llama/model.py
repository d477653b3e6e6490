"""What does Llama compute? Read from the top: the Program, then what it is made of.

Touvron et al. 2023 and Dubey et al. 2024. B samples, T tokens of this rank, C width, H query heads and G key heads of
this rank, D numbers of one head, F numbers inside the MLP, V vocabulary. Pre-norm blocks by root mean square, rotary
places, a gated MLP (Shazeer 2020, SwiGLU), no biases. Tokens may be split over the context axis, and between split
layers over the tensor axis (models/layers/tokens.py).
"""

from collections.abc import Mapping

from torch import Tensor, nn
from torch.nn import functional as F

from ..axes import ALONE, Axes
from ..layers.attention import attention
from ..layers.embedding import Embedding
from ..layers.head import Head
from ..layers.rms_norm import RMSNorm
from ..layers.rotary import rotate, rotation
from ..layers.tokens import places, tokens_of
from .entry import LlamaConfig

Terms = dict[str, tuple[Tensor, Tensor]]


class Llama(nn.Module):
    """The Program: a batch to the sum of its tokens' losses.

    A pipeline stage sets `embed` or `head` to None and drops blocks; what is left keeps its name.
    """

    axes: Axes = ALONE

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.config = config
        self.embed: Embedding | None = Embedding(config.vocab_size, config.width)
        self.blocks = nn.ModuleDict({str(layer): Block(config) for layer in range(config.layers)})
        self.head: Head | None = head(config, self.embed)
        initialise(self)

    def forward(self, batch: Mapping[str, Tensor], *state: Tensor) -> Terms | dict[str, Tensor] | tuple[Tensor, ...]:
        """The objective; the first of several answers that fits.

        Args:
            batch: "inputs" int64 [B, T]; "targets" int64 [B, T], -100 where nothing is to be predicted; "position"
                int64 [B, T] where the context axis is split.
            state: the residual stream [B, T, C], in a stage without `embed`.

        Returns:
            In a stage without `head`, the residual stream in a tuple. Without targets, {"logits": [B, T, V]}.
            Otherwise {"loss": (sum over targets in nats, number of targets)}.
        """
        turns = turns_of(batch, self.axes, self.config)
        x = self.embed(batch["inputs"]) if self.embed is not None else state[0]
        for block in self.blocks.values():
            x = block(x, *turns)
        if self.head is None:
            return (x,)
        result: Terms | dict[str, Tensor] = self.head(x, batch.get("targets"))
        return result


def turns_of(batch: Mapping[str, Tensor], axes: Axes, config: LlamaConfig) -> tuple[Tensor, Tensor]:
    """Cosines and sines [T, D / 2] of the tokens' places.

    Raises:
        ValueError: a sample has more tokens than the context.
    """
    inputs, tokens = batch["inputs"], tokens_of(batch, axes)
    if tokens.whole > config.context:
        raise ValueError(f"a sample has {tokens.whole} tokens, but context={config.context}")
    return rotation(places(tokens.inside, inputs.shape[1], inputs.device), config.head_width, config.base)


class Block(nn.Module):
    """Attention and MLP, each of them added to the residual stream [B, T, C]."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(config.width, config.epsilon)
        self.attention = Attention(config)
        self.mlp_norm = RMSNorm(config.width, config.epsilon)
        self.mlp = MLP(config.width, config.hidden)

    def forward(self, x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
        x = x + self.attention(self.attention_norm(x), cosine, sine)
        result: Tensor = x + self.mlp(self.mlp_norm(x))
        return result


class Attention(nn.Module):
    """Causal attention with grouped queries and rotary places, [B, T, C] to [B, T, C]."""

    axes: Axes = ALONE

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.head_width = config.head_width
        keys = config.kv_heads * config.head_width
        self.query = nn.Linear(config.width, config.width, bias=False)
        self.key, self.value = (nn.Linear(config.width, keys, bias=False) for _ in range(2))
        self.output = nn.Linear(config.width, config.width, bias=False)

    def forward(self, x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
        query, keys, values = (
            layer(x).unflatten(-1, (-1, self.head_width))  # [B, T, H or G, D]
            for layer in (self.query, self.key, self.value)
        )
        parts = (rotate(query, cosine, sine), rotate(keys, cosine, sine), values)
        mixed = attention(*(part.transpose(1, 2) for part in parts), axes=self.axes, causal=True)
        result: Tensor = self.output(mixed.transpose(1, 2).flatten(2))
        return result


class MLP(nn.Module):
    """[B, T, C] to [B, T, C] through F numbers, one half of them gating the other."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.gate, self.up = (nn.Linear(width, hidden, bias=False) for _ in range(2))
        self.down = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.down(F.silu(self.gate(x)) * self.up(x))
        return result


def head(config: LlamaConfig, embed: nn.Embedding) -> Head:
    """Norm and projection, which may be the token embedding."""
    weight = embed.weight if config.tied else nn.Parameter(embed.weight.detach().clone())
    return Head(RMSNorm(config.width, config.epsilon), weight)


def initialise(program: nn.Module) -> None:
    """Every matrix from N(0, 0.02^2); norms stay one. Draws from torch's default generator, which the caller seeds."""
    for parameter in program.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=0.02)
