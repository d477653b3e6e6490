"""How is a table of vectors read whose rows are split over the tensor axis? Each rank looks up the rows it holds.

Where the degree does not divide the rows, every rank holds all of them. Between split layers the vectors are whole, or
this rank's tokens of them (sequence parallel).
"""

from torch import Tensor, nn
from torch.nn import functional as F

from ..axes import ALONE, Axes, local
from .regions import out_of, own_tokens


class Embedding(nn.Embedding):
    """Ids [B, T] to vectors [B, T, C]; a tensor plan may name its weight under `vocabulary`."""

    axes: Axes = ALONE

    def forward(self, ids: Tensor) -> Tensor:
        """The vectors; with sequence parallel those of this rank's tokens, [B, T / degree, C]."""
        weight = local(self.weight)
        if weight.shape[0] == self.num_embeddings:
            return own_tokens(F.embedding(ids, weight), self.axes)
        rows = ids - self.axes.tensor.index * weight.shape[0]
        here = (rows >= 0) & (rows < weight.shape[0])
        return out_of(F.embedding(rows.where(here, 0), weight) * here.unsqueeze(-1), self.axes)
