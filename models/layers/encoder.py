"""What are bidirectional encoders made of? Attention, MLP and blocks with the norm behind or before each of them.

B samples, T tokens, C width, H heads (of this rank, under tensor parallel), D = C / heads numbers of one head.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..axes import ALONE, Axes
from ..draw import dropout
from .attention import Drop, attention


class Attention(nn.Module):
    """Every token attends to all tokens of its sample: [B, T, C] to [B, T, C].

    Under tensor parallel a rank holds the heads [index * H, (index + 1) * H) of its place on that axis.
    """

    axes: Axes = ALONE

    def __init__(self, width: int, heads: int, dropout: float, name: str) -> None:
        super().__init__()
        self.name, self.dropout = name, dropout
        self.heads, self.head_width = heads, width // heads
        self.query, self.key, self.value, self.output = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x: Tensor, key: Tensor | None) -> Tensor:
        query, keys, values = (self.split(layer(x)) for layer in (self.query, self.key, self.value))
        drop = Drop(self.dropout, key, f"{self.name}.probabilities", self.heads) if self.training else None
        mixed = attention(query, keys, values, axes=self.axes, drop=drop)
        result: Tensor = self.output(mixed.transpose(1, 2).flatten(2))
        return result

    def split(self, x: Tensor) -> Tensor:
        """[B, T, H D] to [B, H, T, D]."""
        heads: Tensor = x.unflatten(-1, (-1, self.head_width))
        return heads.transpose(1, 2)


class MLP(nn.Module):
    """Two layers with GELU by the error function between them."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.expand, self.contract = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.contract(F.gelu(self.expand(x)))
        return result


class PostNormBlock(nn.Module):
    """x = norm(x + branch(x)) for attention and MLP (Vaswani et al. 2017); x [B, T, C]."""

    def __init__(
        self, attention: nn.Module, width: int, hidden: int, dropout: float, epsilon: float, name: str
    ) -> None:
        super().__init__()
        self.name, self.dropout = name, dropout
        self.attention, self.attention_norm = attention, nn.LayerNorm(width, eps=epsilon)
        self.mlp, self.mlp_norm = MLP(width, hidden), nn.LayerNorm(width, eps=epsilon)

    def forward(self, x: Tensor, key: Tensor | None) -> Tensor:
        x = self.attention_norm(x + self.drop(self.attention(x, key), key, "attention"))
        result: Tensor = self.mlp_norm(x + self.drop(self.mlp(x), key, "mlp"))
        return result

    def drop(self, branch: Tensor, key: Tensor | None, which: str) -> Tensor:
        return dropout(branch, self.dropout, key, f"{self.name}.{which}.output") if self.training else branch


class MaskedHead(nn.Module):
    """Guesses tokens: dense, GELU, norm, then the token embedding with a bias of its own as projection."""

    def __init__(self, width: int, weight: Tensor, epsilon: float) -> None:
        """Take the projection [V, C], the token embedding's weight."""
        super().__init__()
        self.dense, self.norm = nn.Linear(width, width), nn.LayerNorm(width, eps=epsilon)
        self.weight, self.bias = weight, nn.Parameter(torch.zeros(weight.shape[0]))

    def forward(self, x: Tensor) -> Tensor:
        """Logits [..., V] of x [..., C]."""
        return F.linear(self.norm(F.gelu(self.dense(x))), self.weight, self.bias)

    def loss(self, x: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """(sum in nats, number) over the labels [B, T] that are not -100; logits are made of those tokens alone."""
        guessed = labels >= 0
        logits = self(x[guessed]).float()
        return F.cross_entropy(logits, labels[guessed], reduction="sum"), guessed.sum()


def initialise(program: nn.Module, normal: Callable[[Tensor], object]) -> None:
    """Matrices and embeddings by `normal`, which draws from torch's default generator; biases zero."""
    for module in program.modules():
        if isinstance(module, nn.Linear | nn.Embedding):
            normal(module.weight)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)
