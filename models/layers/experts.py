"""What does a layer of many small MLPs compute? Of its experts, each token uses a few, and adds what they give.

Shazeer et al. 2017, "Outrageously Large Neural Networks"; routing as in Mixtral (Jiang et al. 2024): softmax over all
experts, the K largest rescaled to one. B samples, T tokens of this rank, C width, E experts, F numbers inside each.
Experts may be split over the expert axis (dim 0 of each stack) and inside over the tensor axis (F).
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..axes import ALONE, Axes, local
from .collectives import gather, leave, total
from .dispatch import combine, dispatch, find_routes
from .regions import into, out_of


class Routed(NamedTuple):
    """What a router decided for tokens [B, T]."""

    chosen: Tensor  # int64 [B, T, K]
    shares: Tensor  # [B, T, K], of the chosen experts' outputs; their sum is one
    load: Tensor  # fp32 [2, E], summed over the tokens: probabilities, and how often each expert was chosen


class Mixture(nn.Module):
    """[B, T, C] to [B, T, C] and the load [2, E], by the K experts that the router gives each token."""

    axes: Axes = ALONE

    def __init__(self, width: int, hidden: int, experts: int, choices: int) -> None:
        super().__init__()
        self.choices = choices
        self.router = nn.Linear(width, experts, bias=False)
        self.experts = Experts(width, hidden, experts)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        chosen, shares, load = self.route(x)
        if self.axes.sequence:
            chosen = gather(chosen, self.axes.tensor, 1)
        mixed = self.experts(into(x, self.axes), chosen, into(shares, self.axes))
        return out_of(mixed, self.axes), load

    def route(self, x: Tensor) -> Routed:
        """The experts of tokens x [B, T, C]."""
        probabilities = self.router(x).float().softmax(-1)
        largest, chosen = probabilities.topk(self.choices, -1)
        times = torch.bincount(chosen.flatten(), minlength=probabilities.shape[-1])
        load = torch.stack((probabilities.flatten(0, 1).sum(0), times.to(probabilities.dtype)))
        return Routed(chosen, (largest / largest.sum(-1, keepdim=True)).to(x.dtype), load)


class Experts(nn.Module):
    """E gated MLPs as three stacks of matrices; a rank has those of its place on the expert axis."""

    axes: Axes = ALONE

    def __init__(self, width: int, hidden: int, experts: int) -> None:
        super().__init__()
        self.count = experts
        self.gate, self.up = (nn.Parameter(torch.empty(experts, hidden, width)) for _ in range(2))
        self.down = nn.Parameter(torch.empty(experts, width, hidden))

    def forward(self, x: Tensor, chosen: Tensor, shares: Tensor) -> Tensor:
        """x [B, T, C], chosen and shares [B, T, K] to the shares of what the chosen experts give [B, T, C]."""
        axis = self.axes.expert
        routes = find_routes(chosen.flatten(0, 1), self.count, axis)
        rows = dispatch(x.flatten(0, 1), routes, axis).split(routes.sizes)
        stacks = [local(stack).to(x.dtype).unbind() for stack in (self.gate, self.up, self.down)]
        made = torch.cat([gated(part, *own) for part, *own in zip(rows, *stacks, strict=True)])
        mixed = combine(made, routes, axis) * shares.flatten(0, 1).unsqueeze(-1)
        return mixed.sum(1).view_as(x)


def gated(x: Tensor, gate: Tensor, up: Tensor, down: Tensor) -> Tensor:
    """One expert: rows [N, C] to [N, C]; of no row, zero gradients."""
    return F.linear(F.silu(F.linear(x, gate)) * F.linear(x, up), down)


def imbalance(load: Tensor, choices: int, axes: Axes) -> Tensor:
    """How unevenly a micro-batch is routed, a scalar; K where it is even (Fedus et al. 2022, Switch, equations 4 to 6).

    E times the sum over experts of how often one was chosen times its mean probability, over all layers and the tokens
    of all ranks that work on the micro-batch. Collective.

    Args:
        load: fp32 [2, E], summed over layers and this rank's tokens.
    """
    if axes.sequence:
        load = leave(load, axes.tensor)
    probabilities, times = total(load, axes.data)
    rows = times.sum() / choices
    uneven: Tensor = load.shape[1] * (times / rows * probabilities / rows).sum()
    return uneven
