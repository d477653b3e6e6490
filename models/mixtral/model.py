"""What does Mixtral compute? Read from the top: the Program, then its block; the rest is Llama's and the experts'.

Jiang et al. 2024. B samples, T tokens of this rank, C width, D numbers of one head, E experts, V vocabulary.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ..axes import ALONE, Axes
from ..layers.embedding import Embedding
from ..layers.experts import Mixture, imbalance
from ..layers.head import Head
from ..layers.rms_norm import RMSNorm
from ..llama.model import Attention, head, initialise, turns_of
from .entry import MixtralConfig

Terms = dict[str, tuple[Tensor, Tensor]]


class Mixtral(nn.Module):
    """The Program: a batch to the sum of its tokens' losses and of their share of the router's imbalance.

    A pipeline stage sets `embed` or `head` to None and drops blocks; what is left keeps its name.
    """

    axes: Axes = ALONE

    def __init__(self, config: MixtralConfig) -> None:
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
            state: in a stage without `embed`, the residual stream [B, T, C] and the load of the experts [2, E] so far.

        Returns:
            In a stage without `head`, the same two. Without targets, {"logits": [B, T, V]}. Otherwise the terms "loss",
            which is "cross_entropy" plus `balance` times "imbalance", all by the number of targets.
        """
        turns = turns_of(batch, self.axes, self.config)
        if self.embed is not None:
            x, load = self.embed(batch["inputs"]), torch.zeros(2, self.config.experts, device=batch["inputs"].device)
        else:
            x, load = state
        for block in self.blocks.values():
            x, found = block(x, *turns)
            load = load + found
        if self.head is None:
            return (x, load)
        if "targets" not in batch:
            logits: dict[str, Tensor] = self.head(x, None)
            return logits
        return self.balanced(self.head(x, batch["targets"]), load)

    def balanced(self, terms: Mapping[str, tuple[Tensor, Tensor]], load: Tensor) -> Terms:
        """The terms of the objective; each target bears the same share of the imbalance. Collective."""
        cross_entropy, count = terms["loss"]
        uneven = imbalance(load, self.config.choices, self.axes) * count
        loss = cross_entropy + self.config.balance * uneven
        return {"loss": (loss, count), "cross_entropy": (cross_entropy, count), "imbalance": (uneven, count)}


class Block(nn.Module):
    """Attention and experts, each of them added to the residual stream [B, T, C]; and the experts' load [2, E]."""

    def __init__(self, config: MixtralConfig) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(config.width, config.epsilon)
        self.attention = Attention(config)
        self.mixture_norm = RMSNorm(config.width, config.epsilon)
        self.mixture = Mixture(config.width, config.hidden, config.experts, config.choices)

    def forward(self, x: Tensor, cosine: Tensor, sine: Tensor) -> tuple[Tensor, Tensor]:
        x = x + self.attention(self.attention_norm(x), cosine, sine)
        mixed, load = self.mixture(self.mixture_norm(x))
        return x + mixed, load
