"""What does the loss cost where the vocabulary is split over the tensor axis? Three numbers a token travel, no logits.

Each rank has the logits of its rows of the projection (Shoeybi et al. 2019, Megatron-LM, section 3). N rows of x,
C width, W the part of the vocabulary that a rank holds, V / degree. Gradients by x are this rank's part of a sum.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from ..axes import Axis
from .collectives import leave, maximum

IGNORED = -100  # the target that is not counted


def split_cross_entropy(x: Tensor, weight: Tensor, targets: Tensor, rows: int, axis: Axis) -> Tensor:
    """Sum of the negative log-likelihoods, fp32, equal on all ranks: x [N, C], weight [W, C], targets int64 [N].

    Args:
        rows: of logits that may exist at once; where N fits, they are kept for backward.
    """
    if x.shape[0] <= rows:
        return _losses(F.linear(x, weight).float(), targets, axis)[0].sum()
    if torch.is_autocast_enabled(x.device.type):  # backward runs outside of autocast and must not compute in fp32
        x, weight = (tensor.to(torch.get_autocast_dtype(x.device.type)) for tensor in (x, weight))
    total: Tensor = _Chunked.apply(x, weight, targets, rows, axis)
    return total


def _losses(logits: Tensor, targets: Tensor, axis: Axis) -> tuple[Tensor, Tensor]:
    """Of rows of logits [N, W]: losses [N], zero where nothing is counted, and the logarithms of all exponentials."""
    places, here = _held(logits.shape[1], targets, axis)
    wanted = logits.gather(1, places.unsqueeze(1)).squeeze(1).where(here, 0.0)
    largest = maximum(logits.detach().amax(1), axis)
    exponentials = (logits - largest.unsqueeze(1)).exp().sum(1)
    exponentials, wanted = leave(torch.stack((exponentials, wanted)), axis)
    logarithms = exponentials.log() + largest
    return (logarithms - wanted).where(targets != IGNORED, 0.0), logarithms


def _held(width: int, targets: Tensor, axis: Axis) -> tuple[Tensor, Tensor]:
    """The column of each target on this rank (0 where it has none), and whether it has one."""
    places = targets - axis.index * width
    here = (targets != IGNORED) & (places >= 0) & (places < width)
    return places.where(here, 0), here


class _Chunked(torch.autograd.Function):
    """The same sum, chunk by chunk; backward makes logits anew and needs no communication."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, targets: Tensor, rows: int, axis: Axis) -> Tensor:
        pieces = zip(x.split(rows), targets.split(rows), strict=True)
        found = [_losses(F.linear(piece, weight).float(), wanted, axis) for piece, wanted in pieces]
        ctx.save_for_backward(x, weight, targets, torch.cat([logarithms for _, logarithms in found]))
        ctx.rows, ctx.axis = rows, axis
        return torch.stack([losses.sum() for losses, _ in found]).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        x, weight, targets, logarithms = ctx.saved_tensors
        by_x, by_weight = torch.empty_like(x), torch.zeros_like(weight, dtype=torch.float32)
        pieces = (part.split(ctx.rows) for part in (x, targets, logarithms, by_x))
        for piece, wanted, total, by_piece in zip(*pieces, strict=True):
            by_logits = _by_logits(piece, weight, wanted, total, gradient, ctx.axis)
            torch.mm(by_logits, weight, out=by_piece)
            by_weight += by_logits.T @ piece
        return by_x, by_weight.to(weight.dtype), None, None, None


def _by_logits(x: Tensor, weight: Tensor, targets: Tensor, logarithms: Tensor, by: Tensor, axis: Axis) -> Tensor:
    """(softmax - one-hot) * gradient in this rank's columns, zero in rows that are not counted; in the dtype of x."""
    places, here = _held(weight.shape[0], targets, axis)
    result = F.linear(x, weight).float().sub_(logarithms.unsqueeze(1)).exp_()
    result.scatter_add_(1, places.unsqueeze(1), -here.to(result.dtype).unsqueeze(1))
    return result.mul_((targets != IGNORED).unsqueeze(1) * by).to(x.dtype)
