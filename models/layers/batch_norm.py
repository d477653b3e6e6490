"""Over which samples is a batch normalised? Over those of all data ranks, whatever the layout.

Ioffe and Szegedy, "Batch Normalization" (2015). Each rank centres its own values; counts, means and sums of squares are
gathered in one collective and joined by the formula of Chan, Golub and LeVeque (1979), which subtracts no large numbers
from each other. Running statistics are the same on all data ranks, and a forward that is recomputed for backward leaves
them alone.

B samples, C channels (of this rank, where a tensor plan names weight, bias, running_mean and running_var in `own`).
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..axes import ALONE, Axes, local
from .collectives import gather


class BatchNorm(nn.Module):
    """x [B, C, ...] to the same shape, each channel with mean 0 and variance 1 in training, then scaled and shifted.

    In evaluation the running statistics are used; they are nn.BatchNorm2d's, with the unbiased variance.
    """

    axes: Axes = ALONE
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int, eps: float = 1e-5, momentum: float = 0.1) -> None:
        """
        Args:
            eps: added to the variance; momentum: weight of a new batch in the running statistics.
        """
        super().__init__()
        self.eps, self.momentum = eps, momentum
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise.

        Raises:
            ValueError: in training, a channel has a single value on all ranks together.
        """
        if self.training and self.axes.data.degree > 1:
            return self._over_ranks(x)
        known = not self.training or not recomputed()
        return F.batch_norm(
            x,
            local(self.running_mean) if known else None,
            local(self.running_var) if known else None,
            local(self.weight).to(wide(x)),
            local(self.bias).to(wide(x)),
            self.training,
            self.momentum,
            self.eps,
        )

    def _over_ranks(self, x: Tensor) -> Tensor:
        values, dims = x.to(wide(x)), [0, *range(2, x.ndim)]
        mean = values.mean(dims)
        centred = values - _per_channel(mean, x)
        count, mean_of_all, squares = self._joined(x.numel() / x.shape[1], mean, centred.square().sum(dims))
        if not recomputed():
            self._keep(count, mean_of_all.detach(), squares.detach())
        scale = local(self.weight) * (squares / count + self.eps).rsqrt()
        shift = local(self.bias) + (mean - mean_of_all) * scale
        return (centred * _per_channel(scale, x) + _per_channel(shift, x)).to(x.dtype)

    def _joined(self, count: float, mean: Tensor, squares: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Count (0-dim), mean [C] and sum of squared distances from it [C] of the values of all data ranks.

        Args:
            count: values of a channel on this rank; mean, squares: likewise of them, [C].
        """
        mine = torch.cat((mean.new_full((1,), count), mean, squares))
        ranks = gather(mine[None], self.axes.data, 0)
        counts, means, sums = ranks[:, :1], *ranks[:, 1:].chunk(2, 1)
        total = counts.sum()
        mean = (counts * means).sum(0) / total
        return total, mean, (sums + counts * (means - mean).square()).sum(0)

    @torch.no_grad()
    def _keep(self, count: Tensor, mean: Tensor, squares: Tensor) -> None:
        """Move the running statistics towards a batch's."""
        local(self.running_mean).lerp_(mean, self.momentum)
        local(self.running_var).lerp_(squares / (count - 1), self.momentum)


def recomputed() -> bool:
    """Whether this forward runs once more for backward: only then does the thread stand inside autograd's engine.

    The batch has moved the running statistics in the first forward already.
    """
    return torch._C._current_graph_task_id() != -1


def wide(x: Tensor) -> torch.dtype:
    """The dtype of the statistics of x: fp32 at least."""
    return torch.promote_types(x.dtype, torch.float32)


def _per_channel(values: Tensor, x: Tensor) -> Tensor:
    """[C] to [C, 1, ...], which broadcasts over x [B, C, ...]."""
    return values.view(-1, *[1] * (x.ndim - 2))
