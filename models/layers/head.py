"""How does a language model end? Norm, projection and loss; the vocabulary may be split over the tensor axis.

B samples, T tokens of this rank, C width, V vocabulary.
"""

from torch import Tensor, nn
from torch.nn import functional as F

from ..axes import ALONE, Axes, Axis, local
from .collectives import join
from .cross_entropy import cross_entropy
from .regions import all_tokens, into
from .sizes import LOGITS


class Head(nn.Module):
    """The residual stream [B, T, C] (with sequence parallel, this rank's tokens of it) to losses or logits."""

    axes: Axes = ALONE

    def __init__(self, norm: nn.Module, weight: Tensor) -> None:
        """Take the last norm and the projection [V, C], a parameter that may be the embedding's."""
        super().__init__()
        self.norm, self.weight = norm, weight
        self.vocabulary = weight.shape[0]

    def forward(self, x: Tensor, targets: Tensor | None) -> dict[str, tuple[Tensor, Tensor]] | dict[str, Tensor]:
        """{"loss": (sum over targets in nats, number of targets)}, or {"logits": [B, T, V]} without targets."""
        x, weight = self.norm(x), local(self.weight)
        split = weight.shape[0] < self.vocabulary
        x = into(x, self.axes) if split else all_tokens(x, self.axes)
        axis = self.axes.tensor if split else Axis()
        if targets is None:
            return {"logits": join(F.linear(x, weight), axis, -1)}
        return {"loss": cross_entropy(x, weight, targets, LOGITS, axis)}
