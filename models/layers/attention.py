"""How do tokens attend to each other, wherever heads and tokens sit? One function, for any layout.

B samples, H query heads and G key heads of this rank (H a multiple of G: Ainslie et al. 2023, grouped queries), T
tokens of this rank, D numbers of a head. Heads may be split over the tensor axis. Tokens may be split over the context
axis; then attention meets the other ranks' tokens in one of two ways:

| axes.attention | what travels | work of a rank |
|---|---|---|
| gather | keys and values of all tokens, to every rank | its tokens, all heads (Dubey et al. 2024, section 3.3.2) |
| ulysses | tokens for heads and back | all tokens, its heads (Jacobs et al. 2023, DeepSpeed-Ulysses) |
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ..axes import ALONE, Axes
from ..draw import dropout
from .collectives import gather, swap
from .tokens import dealt, in_order


@dataclass(frozen=True)
class Drop:
    """Dropout of attention's probabilities, drawn so that no layout changes it."""

    p: float
    key: Tensor | None  # int32 [B, 2]
    name: str
    heads: int  # of all tensor ranks


@dataclass(frozen=True)
class Where:
    """Which part of the probabilities [H of all ranks, T of a sample, T of a sample] a call computes."""

    head: int = 0  # the first
    query: int | Tensor = 0  # the first token that asks, or all of them int64 [T]
    whole: int = 0  # tokens of a sample


def attention(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    *,
    axes: Axes = ALONE,
    causal: bool = False,
    mask: Tensor | None = None,
    drop: Drop | None = None,
    scale: float | None = None,
) -> Tensor:
    """What each token takes from those it attends to: [B, H, T, D], [B, G, S, D], [B, G, S, D] to [B, H, T, D].

    Args:
        causal: a token attends to itself and those before it in its sample (T = S).
        mask: bool, True where a token may look, or numbers that are added to the scores; broadcasts to [B, H, T, S].
        drop: only for training; None drops nothing.
        scale: of the scores; 1 / sqrt(D) where it is None.

    Raises:
        ValueError: tokens are split over the context axis, and there is a mask, or too few heads for ulysses.
    """
    if axes.context.degree == 1:
        where = Where(axes.tensor.index * query.shape[1], 0, keys.shape[2])
        return _weigh(query, keys, values, causal=causal, mask=mask, drop=drop, scale=scale, where=where)
    if mask is not None:
        raise ValueError("attention with a mask needs all tokens of a sample; set context = 1")
    way = _by_heads if axes.attention == "ulysses" else _by_gathering
    return way(query, keys, values, axes, causal, drop, scale)


def _by_gathering(
    query: Tensor, keys: Tensor, values: Tensor, axes: Axes, causal: bool, drop: Drop | None, scale: float | None
) -> Tensor:
    """This rank's two chunks of tokens attend to gathered keys; a chunk only to those before its end, if causal."""
    axis, head = axes.context, axes.tensor.index * query.shape[1]
    keys, values = in_order(gather(torch.stack((keys, values)), axis, 3), axis, 3)
    whole, size, found = keys.shape[2], query.shape[2] // 2, []
    for chunk, asking in zip((axis.index, 2 * axis.degree - 1 - axis.index), query.chunk(2, 2), strict=True):
        first = chunk * size
        seen = first + size if causal else whole
        where = Where(head, first, whole)
        part = (asking, keys[:, :, :seen], values[:, :, :seen])
        found.append(_weigh(*part, causal=causal, mask=None, drop=drop, scale=scale, where=where))
    return torch.cat(found, 2)


def _by_heads(
    query: Tensor, keys: Tensor, values: Tensor, axes: Axes, causal: bool, drop: Drop | None, scale: float | None
) -> Tensor:
    """Each rank attends with its share of the heads over all tokens, which travel there and back."""
    axis, groups = axes.context, keys.shape[1]
    if groups % axis.degree:
        raise ValueError(f"ulysses: context={axis.degree} does not divide the {groups} key heads of a rank")
    shares = torch.cat([x.unflatten(1, (axis.degree, -1)) for x in (query, keys, values)], 2).flatten(1, 2)
    mine = in_order(swap(shares, axis, 1, 2), axis, 2)
    asking, keys, values = mine.split([x.shape[1] // axis.degree for x in (query, keys, values)], 1)
    head = axes.tensor.index * query.shape[1] + axis.index * asking.shape[1]
    where = Where(head, 0, keys.shape[2])
    found = _weigh(asking, keys, values, causal=causal, mask=None, drop=drop, scale=scale, where=where)
    return swap(dealt(found, axis, 2), axis, 2, 1)


def _weigh(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    *,
    causal: bool,
    mask: Tensor | None,
    drop: Drop | None,
    scale: float | None,
    where: Where,
) -> Tensor:
    """Attention among tokens that are here; if causal, the last token that asks is the last that is seen."""
    if drop is not None and drop.p > 0.0:
        weights = _probabilities(query, keys, causal, mask, scale)
        start, extent = (where.head, where.query, 0), (drop.heads, where.whole, where.whole)
        weights = dropout(weights, drop.p, drop.key, drop.name, start, extent)
        mixed: Tensor = (weights.unflatten(1, (keys.shape[1], -1)) @ values.unsqueeze(2)).flatten(1, 2)
        return mixed
    square = query.shape[2] == keys.shape[2]
    if causal and (mask is not None or not square):
        mask, causal = _seen(query, keys, mask), False
    grouped = query.shape[1] != keys.shape[1]
    return F.scaled_dot_product_attention(
        query, keys, values, attn_mask=mask, is_causal=causal, scale=scale, enable_gqa=grouped
    )


def _probabilities(query: Tensor, keys: Tensor, causal: bool, mask: Tensor | None, scale: float | None) -> Tensor:
    """How much each token attends to each: [B, H, T, S]."""
    grouped = query.unflatten(1, (keys.shape[1], -1))
    scores: Tensor = (grouped @ keys.unsqueeze(2).transpose(-2, -1)).flatten(1, 2)
    scores = scores * (query.shape[-1] ** -0.5 if scale is None else scale)
    if causal:
        mask = _seen(query, keys, mask)
    if mask is not None:
        scores = scores.masked_fill(~mask, -math.inf) if mask.dtype == torch.bool else scores + mask
    return scores.softmax(-1)


def _seen(query: Tensor, keys: Tensor, mask: Tensor | None) -> Tensor:
    """The causal mask [T, S], with another one."""
    asking, seen = query.shape[2], keys.shape[2]
    causal = torch.ones(asking, seen, dtype=torch.bool, device=query.device).tril(seen - asking)
    if mask is None:
        return causal
    return mask & causal if mask.dtype == torch.bool else mask.masked_fill(~causal, -math.inf)
