"""How are vectors brought to one length? Divided by their root mean square (Zhang and Sennrich 2019, RMSNorm)."""

import torch
from torch import Tensor, nn


class RMSNorm(nn.Module):
    """x [..., C] to the same shape; the mean is in fp32, whatever x is."""

    def __init__(self, width: int, epsilon: float) -> None:
        super().__init__()
        self.epsilon = epsilon
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """x / sqrt(mean(x^2) + epsilon), times a weight for each of the C numbers."""
        wide = x.float()
        scaled = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.epsilon)
        return self.weight * scaled.to(x.dtype)
