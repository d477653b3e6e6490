"""How does a token get to its experts and back, wherever they sit? By rows sorted by expert, in uneven all-to-alls.

Each rank of the expert axis holds E / degree consecutive experts. No token is dropped, and every rank takes part in
the same collectives however its tokens are routed. N tokens of this rank, K experts of each token.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..axes import Axis
from .collectives import exchange, swap


@dataclass(frozen=True)
class Routes:
    """Where the rows of one layer go: each token once for each of its experts."""

    order: Tensor  # int64 [N K]: rows sorted by expert, out of (token, choice) in row-major order
    choices: int  # K
    sent: tuple[int, ...]  # rows to each rank
    received: tuple[int, ...]  # rows from each rank
    grouping: Tensor  # int64: received rows, which come rank by rank, sorted by expert
    sizes: tuple[int, ...]  # rows of each expert of this rank


def find_routes(chosen: Tensor, experts: int, axis: Axis) -> Routes:
    """The routes of chosen experts, int64 [N, K]; the ranks exchange their counts. Collective over the axis."""
    flat = chosen.flatten()
    counts = torch.bincount(flat, minlength=experts).view(axis.degree, -1)  # to each rank's experts
    arriving = swap(counts, axis, 0, 0)  # [rank it comes from, expert of this rank]
    ids = torch.arange(counts.shape[1], device=flat.device).repeat(axis.degree).repeat_interleave(arriving.flatten())
    return Routes(
        order=flat.argsort(stable=True),
        choices=chosen.shape[1],
        sent=tuple(counts.sum(1).tolist()),
        received=tuple(arriving.sum(1).tolist()),
        grouping=ids.argsort(stable=True),
        sizes=tuple(arriving.sum(0).tolist()),
    )


def dispatch(x: Tensor, routes: Routes, axis: Axis) -> Tensor:
    """Tokens x [N, C] to the rows that came to this rank's experts, sorted by expert [sum(sizes), C]."""
    return exchange(x[routes.order // routes.choices], axis, routes.sent, routes.received)[routes.grouping]


def combine(y: Tensor, routes: Routes, axis: Axis) -> Tensor:
    """What experts made of such rows, back to their tokens: [sum(sizes), C] to [N, K, C]."""
    back = exchange(y[routes.grouping.argsort()], axis, routes.received, routes.sent)
    return back[routes.order.argsort()].view(-1, routes.choices, y.shape[1])
