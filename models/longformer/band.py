"""How does a token attend to its neighbours at a cost of T times the window, and not of T times T?

Tokens stand in blocks of half a window, w. Those of a block see at most the block itself and the two beside it, so each
block of queries [w, D] meets 3 w keys, and what lies further than w away is masked. The first G tokens of the sample
are seen from everywhere: they are masked in the band and stand as G columns beside it.

B samples, H heads, T tokens, D numbers of a head, N = ceil(T / w) blocks.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F


def banded(
    query: Tensor, keys: Tensor, values: Tensor, half: int, leading: int, drop: Callable[[Tensor], Tensor]
) -> Tensor:
    """Attention of each token to those at most `half` away and to the leading ones: [B, H, T, D] thrice to one.

    Args:
        drop: what is done to the probabilities [B, H, N, w, G + 3 w] (columns of the leading tokens, then the band).
    """
    tokens, leading = query.shape[2], min(leading, query.shape[2])
    asking = blocks(query * query.shape[-1] ** -0.5, half)
    first_keys, first_values = keys[:, :, None, :leading], values[:, :, None, :leading]
    band = asking @ beside(keys, half).transpose(-2, -1)
    band = band.masked_fill(~seen(tokens, half, leading, query.device), -math.inf)
    scores = torch.cat((asking @ first_keys.transpose(-2, -1), band), -1)
    weights = drop(scores.float().softmax(-1).to(scores.dtype))
    near, far = weights[..., leading:], weights[..., :leading]
    mixed = near @ beside(values, half) + far @ first_values
    return mixed.flatten(2, 3)[:, :, :tokens]


def blocks(x: Tensor, half: int) -> Tensor:
    """[B, H, T, D] to [B, H, N, w, D], zeros at the end."""
    found: Tensor = F.pad(x, (0, 0, 0, -x.shape[2] % half)).unflatten(2, (-1, half))
    return found


def beside(x: Tensor, half: int) -> Tensor:
    """For each block the tokens of itself and its two neighbours: [B, H, T, D] to [B, H, N, 3 w, D]."""
    padded = F.pad(x, (0, 0, half, half + -x.shape[2] % half))
    return padded.unfold(2, 3 * half, half).transpose(-2, -1)


def seen(tokens: int, half: int, leading: int, device: torch.device) -> Tensor:
    """Which of the 3 w tokens beside a block its own ones see in the band, bool [N, w, 3 w]: no leading ones."""
    count = -(-tokens // half)
    own, other = torch.arange(half, device=device), torch.arange(3 * half, device=device) - half
    apart = other - own[:, None]
    place = torch.arange(count, device=device)[:, None] * half + other
    inside = (place >= leading) & (place < tokens)
    return (apart.abs() <= half) & inside[:, None]
