"""What does BYOL compute? How well one network predicts, from a view, what a slower one makes of the other view.

Grill et al., "Bootstrap Your Own Latent: A New Approach to Self-Supervised Learning" (2020). The slower one, the
target, is never trained: after each update it moves towards the online network (`follows` of the entry). Both normalise
over all data ranks, one view at a time.

B images, F features, D numbers of an embedding.
"""

from collections.abc import Mapping
from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..layers.batch_norm import BatchNorm
from ..layers.views import view
from ..resnet18.model import Features
from .entry import BYOLConfig

Terms = dict[str, tuple[Tensor, Tensor]]


class BYOL(nn.Module):
    """The Program: a batch to how far predictions are from the target's embeddings."""

    def __init__(self, config: BYOLConfig) -> None:
        super().__init__()
        self.config = config
        self.online = Network(config)
        self.target = deepcopy(self.online).requires_grad_(False)
        self.prediction = Head(config.embedding, config)

    def forward(self, batch: Mapping[str, Tensor]) -> Terms:
        """The objective.

        Args:
            batch: "image" float32 [B, C, S, S]; "key" int32 [B, 2].

        Returns:
            {"loss": (sum over samples of `distance` in both directions, B)}.
        """
        first, second = (view(batch["image"], batch["key"], name, self.config) for name in ("first", "second"))
        with torch.no_grad():
            aims = self.target(second), self.target(first)
        predicted = self.prediction(self.online(first)), self.prediction(self.online(second))
        loss = sum(
            (distance(*pair) for pair in zip(predicted, aims, strict=True)), torch.zeros((), device=first.device)
        )
        return {"loss": (loss, torch.tensor(float(len(first)), device=first.device))}

    def represent(self, images: Tensor) -> Tensor:
        """Images [B, C, S, S] to features [B, F] of the online network, which are what is learnt."""
        features: Tensor = self.online.encoder(images)
        return features.mean((2, 3))


class Network(nn.Module):
    """Images [B, C, S, S] to embeddings [B, D]."""

    def __init__(self, config: BYOLConfig) -> None:
        super().__init__()
        self.encoder = Features(config)
        self.projection = Head(config.features, config)

    def forward(self, images: Tensor) -> Tensor:
        result: Tensor = self.projection(self.encoder(images).mean((2, 3)))
        return result


class Head(nn.Module):
    """x [B, inputs] to embeddings [B, D]; the projection of either network, and the prediction."""

    def __init__(self, inputs: int, config: BYOLConfig) -> None:
        super().__init__()
        self.expand = nn.Linear(inputs, config.hidden)
        self.norm = BatchNorm(config.hidden)
        self.contract = nn.Linear(config.hidden, config.embedding)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.contract(F.relu(self.norm(self.expand(x))))
        return result


def distance(predicted: Tensor, aim: Tensor) -> Tensor:
    """Sum over samples of the squared distance of normalised embeddings [B, D], which is 2 - 2 cosine (equation 2)."""
    return (2.0 - 2.0 * F.cosine_similarity(predicted.float(), aim.float(), dim=-1)).sum()
