"""What does SimCLR compute? Embeddings of two views of each image, each to be found again among all others.

Chen, Kornblith, Norouzi and Hinton, "A Simple Framework for Contrastive Learning of Visual Representations" (2020): a
residual network, a projection with one hidden layer, and the loss NT-Xent over the embeddings of all data ranks.

B images of this rank, R data ranks, F features, D numbers of an embedding.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..axes import ALONE, Axes, Axis
from ..layers.collectives import gather
from ..layers.views import view
from ..resnet18.model import Features
from .entry import SimCLRConfig

Terms = dict[str, tuple[Tensor, Tensor]]


class SimCLR(nn.Module):
    """The Program: a batch to its contrastive loss."""

    axes: Axes = ALONE

    def __init__(self, config: SimCLRConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Features(config)
        self.projection = Projection(config)

    def forward(self, batch: Mapping[str, Tensor]) -> Terms:
        """The objective.

        Args:
            batch: "image" float32 [B, C, S, S]; "key" int32 [B, 2].

        Returns:
            The terms of `nt_xent`.
        """
        views = [view(batch["image"], batch["key"], name, self.config) for name in ("first", "second")]
        embeddings = self.projection(self.represent(torch.cat(views)))
        return nt_xent(F.normalize(embeddings.float(), dim=-1), self.config.temperature, self.axes.data)

    def represent(self, images: Tensor) -> Tensor:
        """Images [B, C, S, S] to features [B, F], which are what is learnt; the projection is for the loss alone."""
        features: Tensor = self.encoder(images)
        return features.mean((2, 3))


class Projection(nn.Module):
    """Features [B, F] to embeddings [B, D]."""

    def __init__(self, config: SimCLRConfig) -> None:
        super().__init__()
        self.expand = nn.Linear(config.features, config.hidden)
        self.contract = nn.Linear(config.hidden, config.embedding)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.contract(F.relu(self.expand(x)))
        return result


def nt_xent(embeddings: Tensor, temperature: float, data: Axis) -> Terms:
    """The normalised, temperature-scaled cross-entropy (equation 1), with the embeddings of all data ranks.

    Args:
        embeddings: [2 B, D] of length 1, those of all first views before those of all second ones.

    Returns:
        "loss": (sum over this rank's views of the cross-entropy, in nats, of finding the image's other view among
        the 2 B R - 1 other embeddings, 2 B); "accuracy": (how often it is the nearest one, 2 B).
    """
    views = len(embeddings)
    own = data.index * views + torch.arange(views, device=embeddings.device)  # places among all embeddings
    partner = own.roll(views // 2)
    similar = embeddings @ gather(embeddings, data, 0).mT / temperature
    similar = similar.scatter(1, own[:, None], float("-inf"))
    count = torch.tensor(float(views), device=embeddings.device)
    found = (similar.argmax(-1) == partner).to(torch.float32).sum()
    return {"loss": (F.cross_entropy(similar, partner, reduction="sum"), count), "accuracy": (found, count)}
