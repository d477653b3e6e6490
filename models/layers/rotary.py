"""How do queries and keys know their distance? By rotations in proportion to their place (Su et al. 2021, RoPE).

The D numbers of a head are D / 2 pairs (i, i + D / 2); pair i turns by place x base^(-2 i / D) radians.
"""

import torch
from torch import Tensor


def rotation(places: Tensor, width: int, base: float) -> tuple[Tensor, Tensor]:
    """Cosines and sines, fp32 [T, D / 2], at places int64 [T]."""
    steps = torch.arange(0, width, 2, dtype=torch.float32, device=places.device) / width
    angles = places.to(torch.float32).unsqueeze(1) * base**-steps
    return angles.cos(), angles.sin()


def rotate(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """x [B, T, H, D], turned."""
    cosine, sine = (turn.to(x.dtype).unsqueeze(1) for turn in (cosine, sine))
    first, second = x.chunk(2, -1)
    return torch.cat((first * cosine - second * sine, second * cosine + first * sine), -1)
