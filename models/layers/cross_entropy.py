"""What does a vocabulary projection cost in memory? One chunk of logits, whatever the batch and the vocabulary.

The loss of a chunk of rows is added up in fp32 and its logits are dropped; backward computes them again.
N rows (samples x tokens), C width, V vocabulary.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from ..axes import Axis
from .split_cross_entropy import IGNORED, split_cross_entropy


def cross_entropy(
    x: Tensor, weight: Tensor, targets: Tensor, chunk: int, axis: Axis | None = None
) -> tuple[Tensor, Tensor]:
    """Sum of the negative log-likelihoods of targets under softmax(x @ weight.T), and the number of targets.

    x [..., C], weight [V, C], targets int64 [...] with -100 where nothing is to be predicted; both results are fp32
    scalars. `chunk` is how many logits may exist at once, one row at least; where all fit in one chunk they are kept
    for backward, which then saves their recomputation.

    Args:
        axis: over which the vocabulary is split; weight is then this rank's part [V / degree, C], and gradients by x
            are its part of a sum.
    """
    x, targets = x.reshape(-1, x.shape[-1]), targets.reshape(-1)
    rows = max(1, chunk // weight.shape[0])
    count = (targets != IGNORED).sum().to(torch.float32)
    if axis is not None and axis.group is not None:
        return split_cross_entropy(x, weight, targets, rows, axis), count
    if x.shape[0] <= rows:
        return _negative_log_likelihood(x, weight, targets), count
    if torch.is_autocast_enabled(x.device.type):  # backward runs outside of autocast and must not compute in fp32
        x, weight = (tensor.to(torch.get_autocast_dtype(x.device.type)) for tensor in (x, weight))
    total: Tensor = _Chunked.apply(x, weight, targets, rows)
    return total, count


def _negative_log_likelihood(x: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(F.linear(x, weight).float(), targets, ignore_index=IGNORED, reduction="sum")


class _Chunked(torch.autograd.Function):
    """The same sum, chunk by chunk; the weight's gradient is added up in fp32."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, targets: Tensor, rows: int) -> Tensor:
        ctx.save_for_backward(x, weight, targets)
        ctx.rows = rows
        pieces = zip(x.split(rows), targets.split(rows), strict=True)
        return torch.stack([_negative_log_likelihood(piece, weight, wanted) for piece, wanted in pieces]).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None]:
        x, weight, targets = ctx.saved_tensors
        by_x, by_weight = torch.empty_like(x), torch.zeros_like(weight, dtype=torch.float32)
        pieces = (part.split(ctx.rows) for part in (x, targets, by_x))
        for piece, wanted, by_piece in zip(*pieces, strict=True):
            by_logits = _by_logits(piece, weight, wanted, gradient)
            torch.mm(by_logits, weight, out=by_piece)
            by_weight += by_logits.T @ piece
        return by_x, by_weight.to(weight.dtype), None, None


def _by_logits(x: Tensor, weight: Tensor, targets: Tensor, gradient: Tensor) -> Tensor:
    """(softmax - one-hot) * gradient, zero in rows that are not counted; [N, V] in the dtype of x."""
    counted = (targets != IGNORED).unsqueeze(1)
    result = F.softmax(F.linear(x, weight).float(), dim=-1)
    result.scatter_add_(1, targets.unsqueeze(1).clamp(min=0), result.new_full(counted.shape, -1.0))
    return result.mul_(counted * gradient).to(x.dtype)
