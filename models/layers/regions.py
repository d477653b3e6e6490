"""Where does a tensor-parallel region begin and end? Around layers whose features are split, tokens are whole.

Between two regions every rank of the tensor axis holds all tokens alike; or, with sequence parallel, its own part of
them (Korthikanti et al. 2022, "Reducing Activation Recomputation in Large Transformer Models"): entering gathers the
tokens and leaving scatters the sum, which together move as many bytes as the two sums do.
"""

from torch import Tensor

from ..axes import Axes
from .collectives import enter, gather, join, leave, part, scatter


def into(x: Tensor, axes: Axes, dim: int = 1) -> Tensor:
    """x as layers of split features read it: with all tokens, each rank going on with features of its own."""
    return gather(x, axes.tensor, dim) if axes.sequence else enter(x, axes.tensor)


def out_of(x: Tensor, axes: Axes, dim: int = 1) -> Tensor:
    """The sum of the ranks' partial results; with sequence parallel this rank's tokens of it."""
    return scatter(x, axes.tensor, dim) if axes.sequence else leave(x, axes.tensor)


def all_tokens(x: Tensor, axes: Axes, dim: int = 1) -> Tensor:
    """x with all tokens, for a layer that is not split: all ranks go on alike."""
    return join(x, axes.tensor, dim) if axes.sequence else x


def own_tokens(x: Tensor, axes: Axes, dim: int = 1) -> Tensor:
    """This rank's tokens of what a layer that is not split computed of all of them, alike on all ranks."""
    return part(x, axes.tensor, dim) if axes.sequence else x
