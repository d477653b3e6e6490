"""How is an image noised, and how is noise taken away again? The two directions of diffusion, by formula.

Ho, Jain and Abbeel, "Denoising Diffusion Probabilistic Models" (2020); Song, Meng and Ermon, "Denoising Diffusion
Implicit Models" (2021), whose family of samplers holds the former's. A noise level t in 0..T-1 keeps the share kept[t]
of the image's variance ("alpha bar"). Images lie in [-1, 1]. B samples.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..draw import normal
from .entry import DDPMConfig

Network = Callable[[Tensor, Tensor], Tensor]  # (noisy images [B, ...], noise levels int64 [B]) -> the noise in them


def kept(config: DDPMConfig) -> Tensor:
    """The share of an image's variance that is left at each noise level, float32 [T]."""
    added = torch.linspace(config.first, config.last, config.times, dtype=torch.float64)
    return (1.0 - added).cumprod(0).float()


def noised(image: Tensor, noise: Tensor, share: Tensor) -> Tensor:
    """The image [B, ...] at a noise level that keeps a share [B] of its variance (equation 4)."""
    share = share.view(-1, *[1] * (image.ndim - 1))
    return share.sqrt() * image + (1.0 - share).sqrt() * noise


def denoised(
    noisy: Tensor, noise: Tensor, share: Tensor | float, next_share: Tensor | float, eta: float
) -> tuple[Tensor, Tensor]:
    """Mean [B, ...] and deviation (0-dim) of the image one level down, given the noise in it.

    Args:
        share, next_share: kept at this level and at the one down, 1.0 where there is none.
        eta: 1.0 draws from the posterior of equation 7, 0.0 goes a way without chance (Song et al., equation 12).
    """
    share, next_share = torch.as_tensor(share), torch.as_tensor(next_share)
    clean = (noisy - (1.0 - share).sqrt() * noise) / share.sqrt()
    deviation = eta * ((1.0 - next_share) / (1.0 - share) * (1.0 - share / next_share)).sqrt()
    rest = (1.0 - next_share - deviation.square()).clamp_min(0.0).sqrt()
    return next_share.sqrt() * clean + rest * noise, deviation


@torch.no_grad()
def sample(
    network: Network, shares: Tensor, key: Tensor, shape: Sequence[int], levels: Sequence[int] = (), eta: float = 1.0
) -> Tensor:
    """Images [B, *shape] out of noise.

    Args:
        shares: kept at each level, [T].
        key: int32 [B, 2]; a sample depends on its own key alone.
        levels: falling, those that are gone through; () for all.
        eta: as in `denoised`.
    """
    levels = list(levels) or list(range(len(shares)))[::-1]
    image = normal(key, "sample", shape)
    for level, down in zip(levels, [*levels[1:], None], strict=True):
        noise = network(image, torch.full((len(key),), level, device=key.device))
        next_share = 1.0 if down is None else shares[down]
        mean, deviation = denoised(image, noise, shares[level], next_share, eta)
        image = mean + deviation * normal(key, f"sample.{level}", shape)
    return image
