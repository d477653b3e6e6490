"""What does WGAN-GP compute? A critic that tells real from made by a slope of about one, and a generator it teaches.

Gulrajani et al., "Improved Training of Wasserstein GANs" (2017). B samples, C channels, S pixels of a side, Z numbers
that an image is made from. Pixels lie in [0, 1].
"""

from collections.abc import Callable, Mapping
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..draw import draw, normal
from .entry import KERNEL, WGANGPConfig

Terms = dict[str, tuple[Tensor, Tensor]]
SLOPE = 0.2  # of the critic's leaky ReLU, below zero


class WGANGP(nn.Module):
    """The Program: the objective of the network whose turn it is."""

    def __init__(self, config: WGANGPConfig) -> None:
        super().__init__()
        self.config = config
        self.critic = Critic(config)
        self.generator = Generator(config)

    def forward(self, batch: Mapping[str, Tensor], phase: str = "generator") -> Terms:
        """The objective of a phase.

        Args:
            batch: "image" [B, C, S, S], not read in the generator's phase; "key" int32 [B, 2].

        Returns:
            "loss": (sum, B). In the phase "critic" it is the made images' score less the real ones' and the weighted
            penalty, with "distance": (sum of the real ones' score less the made ones', B), an estimate of the
            Wasserstein-1 distance in pixels, and "penalty": (sum, B). In the phase "generator" it is minus the score.
        """
        key = batch["key"]
        latent = normal(key, "latent", (self.config.latent,))
        count = latent.new_tensor(float(len(latent)))
        if phase == "generator":
            return {"loss": (-self.critic(self.generator(latent)).sum(), count)}
        with torch.no_grad():
            made = self.generator(latent)
        real = batch["image"]
        steep = penalty(self.critic, between(real, made, key)).sum()
        distance = self.critic(real).sum() - self.critic(made).sum()
        loss = self.config.penalty * steep - distance
        return {"loss": (loss, count), "distance": (distance, count), "penalty": (steep, count)}


def between(real: Tensor, made: Tensor, key: Tensor) -> Tensor:
    """A point on the line between each real and made sample, uniformly drawn, [B, ...]."""
    share = draw(key, "between", (1,) * (real.ndim - 1))
    return share * real + (1.0 - share) * made


def penalty(critic: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """(|gradient of the critic by its input| - 1)^2 of each sample x [B, ...], itself differentiable, [B].

    Args:
        critic: [B, ...] to scores [B], each of its own sample alone.
    """
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        (slope,) = torch.autograd.grad(critic(x).sum(), x, create_graph=True)
    result: Tensor = (slope.flatten(1).norm(dim=1) - 1.0).square()
    return result


class Critic(nn.Module):
    """Images [B, C, S, S] to scores [B]. Each sample is judged alone: nothing is normalised over the batch."""

    def __init__(self, config: WGANGPConfig) -> None:
        super().__init__()
        self.shrink = nn.ModuleList(
            nn.Conv2d(before, after, KERNEL, stride=2, padding=KERNEL // 2) for before, after in pairwise(config.widths)
        )
        self.score = nn.Linear(config.widths[-1] * config.sides[-1] ** 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.shrink:
            x = F.leaky_relu(layer(x), SLOPE)
        result: Tensor = self.score(x.flatten(1)).squeeze(1)
        return result


class Generator(nn.Module):
    """Latent numbers [B, Z] to images [B, C, S, S]."""

    def __init__(self, config: WGANGPConfig) -> None:
        super().__init__()
        self.sides = config.sides[::-1]
        widths = config.widths[::-1]
        self.project = nn.Linear(config.latent, widths[0] * self.sides[0] ** 2)
        self.grow = nn.ModuleList(
            nn.ConvTranspose2d(before, after, KERNEL, stride=2, padding=KERNEL // 2, output_padding=1)
            for before, after in pairwise(widths)
        )

    def forward(self, latent: Tensor) -> Tensor:
        x: Tensor = self.project(latent).unflatten(1, (-1, self.sides[0], self.sides[0]))
        for layer, side in zip(self.grow, self.sides[1:], strict=True):
            x = layer(F.relu(x))[..., :side, :side]  # an odd side was doubled to one pixel too many
        return x.sigmoid()
