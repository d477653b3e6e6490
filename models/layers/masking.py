"""Which tokens does a masked language model have to guess? Drawn for each sample, whatever else is in the batch.

Devlin et al. 2018, section 3.1: of the tokens 15 % are chosen; of these 80 % become the mask, 10 % a random token, and
10 % stay. Here a sample without any chosen token has the one whose draw came closest, so that none is without a loss.
B samples, T tokens.
"""

import torch
from torch import Tensor

from ..draw import draw, integers
from .split_cross_entropy import IGNORED

CHOSEN, MASKED, RANDOM = 0.15, 0.8, 0.1


def chosen(key: Tensor, allowed: Tensor) -> Tensor:
    """Which tokens are to be guessed, bool [B, T]; `allowed` bool [T] has at least one."""
    numbers = draw(key, "masking.chosen", allowed.shape).masked_fill(~allowed, 2.0)
    return (numbers <= numbers.amin(-1, keepdim=True).clamp(min=CHOSEN)) & allowed


def masked(tokens: Tensor, key: Tensor, allowed: Tensor, mask: int, vocab_size: int) -> tuple[Tensor, Tensor]:
    """Tokens int64 [B, T] as the model reads them, and the labels: -100 but where it has to guess.

    Args:
        key: int32 [B, 2]; allowed: bool [T], tokens that may be chosen; mask: the id that stands for one to guess.
    """
    guessed = chosen(key, allowed)
    how = draw(key, "masking.how", allowed.shape)
    others = integers(key, "masking.token", tuple(allowed.shape), 0, vocab_size)
    read = torch.where(how < MASKED, mask, torch.where(how < MASKED + RANDOM, others, tokens))
    return torch.where(guessed, read, tokens), tokens.masked_fill(~guessed, IGNORED)
