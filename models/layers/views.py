"""How does a network see one image in two ways? Each time cropped, turned, mirrored and recoloured at random.

As in SimCLR (Chen et al. 2020, appendix A), where a crop shows 8 % of the area or more at 3/4 to 4/3 of the image's
aspect; hue and blur are left out. Handwritten digits are not mirrored: most would be no digit any more. Everything is
drawn from the sample's key, so a view is the same on any rank and in a recomputed forward.

B images, C channels, S pixels along each side.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from ..draw import draw, normal
from .view_sizes import ViewSizes

BRIGHTNESS, CONTRAST, SATURATION = 0.8, 0.8, 0.8  # largest changes at jitter 1
RATIO = 4 / 3  # largest change of the aspect
GREY = (0.299, 0.587, 0.114)  # weights of red, green and blue


def view(images: Tensor, key: Tensor, name: str, sizes: ViewSizes) -> Tensor:
    """One view [B, C, S, S] of images in [0, 1]; pixels beyond an image's edge are 0.

    Args:
        key: int32 [B, 2]; name: of the view, which sets its draws apart from the other's.
    """
    grid = F.affine_grid(places(key, name, sizes), list(images.shape), align_corners=False)
    seen = recoloured(F.grid_sample(images.float(), grid, align_corners=False), key, name, sizes)
    if sizes.noise:
        seen = seen + sizes.noise * normal(key, f"{name}.noise", images.shape[1:])
    return seen.to(images.dtype)


def places(key: Tensor, name: str, sizes: ViewSizes) -> Tensor:
    """Where each view looks: affine maps [B, 2, 3] from its pixels' places to the image's, both in [-1, 1]."""
    area, ratio, angle, mirrored, across, down = draw(key, f"{name}.place", (6,)).unbind(-1)
    area = sizes.crop + (1.0 - sizes.crop) * area
    ratio = torch.exp((2.0 * ratio - 1.0) * math.log(RATIO) * (1.0 - sizes.crop))  # no crop, no other aspect
    width, height = (area * ratio).sqrt().clamp(max=1.0), (area / ratio).sqrt().clamp(max=1.0)
    angle = (2.0 * angle - 1.0) * math.radians(sizes.turn)
    sign = 1.0 - 2.0 * (mirrored < sizes.flip)
    rows = (
        torch.stack((angle.cos() * width * sign, -angle.sin() * height, (2.0 * across - 1.0) * (1.0 - width)), -1),
        torch.stack((angle.sin() * width * sign, angle.cos() * height, (2.0 * down - 1.0) * (1.0 - height)), -1),
    )
    return torch.stack(rows, 1)


def recoloured(images: Tensor, key: Tensor, name: str, sizes: ViewSizes) -> Tensor:
    """Images [B, C, S, S] with another brightness, contrast and, of colours, saturation."""
    if not (sizes.jitter or sizes.grey):
        return images
    numbers = draw(key, f"{name}.colour", (4,))
    strength = numbers.new_tensor((BRIGHTNESS, CONTRAST, SATURATION)) * sizes.jitter
    bright, contrast, saturation = (
        factor.view(-1, 1, 1, 1) for factor in (1.0 + strength * (2.0 * numbers[:, :3] - 1.0)).clamp(min=0.0).unbind(-1)
    )
    images = images * bright
    mean = images.mean((1, 2, 3), keepdim=True)
    images = mean + contrast * (images - mean)
    if images.shape[1] != len(GREY):
        return images
    saturation = saturation * (numbers[:, 3] >= sizes.grey).view(-1, 1, 1, 1)
    grey = (images * images.new_tensor(GREY).view(-1, 1, 1)).sum(1, keepdim=True)
    return grey + saturation * (images - grey)
