"""What does a multilayer perceptron compute? Layers in pairs, each a linear map and a nonlinearity.

Rumelhart, Hinton and Williams, "Learning Representations by Back-propagating Errors" (1986). B samples. Layers stand in
pairs because tensor parallel splits the width within a pair and nothing between two pairs.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..axes import ALONE, Axes
from ..draw import dropout
from ..layers.classification import Terms, classification
from .entry import MLPConfig

ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "gelu": F.gelu,
}


class MLP(nn.Module):
    """The Program: a batch to its classification loss. A pipeline stage drops pairs; what is left keeps its name."""

    def __init__(self, config: MLPConfig) -> None:
        super().__init__()
        self.values = config.values
        self.last = str(len(config.pairs) - 1)
        self.pairs = nn.ModuleDict(
            {
                str(index): Pair(config, widths, f"pairs.{index}", final=str(index) == self.last)
                for index, widths in enumerate(config.pairs)
            }
        )

    def forward(self, batch: Mapping[str, Tensor], *state: Tensor) -> Terms | dict[str, Tensor] | tuple[Tensor, ...]:
        """The objective; the first of several answers that fits.

        Args:
            batch: samples [B, ...] under the config's `values`; "label" int64 [B]; "key" int32 [B, 2], needed in
                training with dropout.
            state: what the pair before the first one here gave, [B, width].

        Returns:
            In a stage without the last pair, its output [B, width] in a tuple. Without labels, {"logits": [B,
            classes]}. Otherwise the terms of `classification`.
        """
        x = state[0] if state else batch[self.values].flatten(1)
        for pair in self.pairs.values():
            x = pair(x, batch.get("key"))
        if self.last not in self.pairs:
            return (x,)
        return classification(x, batch["label"]) if "label" in batch else {"logits": x}


class Pair(nn.Module):
    """Two layers [B, before] to [B, after], or the last one alone; no nonlinearity follows the network's last layer."""

    axes: Axes = ALONE

    def __init__(self, config: MLPConfig, widths: tuple[int, ...], name: str, final: bool) -> None:
        super().__init__()
        self.name, self.final, self.between = name, final, widths[1]
        self.activation, self.dropout = ACTIVATIONS[config.activation], config.dropout
        self.first = nn.Linear(widths[0], widths[1])
        self.second = nn.Linear(widths[1], widths[2]) if len(widths) == 3 else None

    def forward(self, x: Tensor, key: Tensor | None) -> Tensor:
        x = self.first(x)
        if self.second is not None:
            first = self.axes.tensor.index * x.shape[-1]  # of the features that this rank holds
            x = self.second(self._after(x, key, "first", first, self.between))
        return x if self.final else self._after(x, key, "second", 0, x.shape[-1])

    def _after(self, x: Tensor, key: Tensor | None, layer: str, first: int, width: int) -> Tensor:
        """Nonlinearity and dropout of features `first` and on, of `width` in all."""
        x = self.activation(x)
        return dropout(x, self.dropout, key, f"{self.name}.{layer}", (first,), (width,)) if self.training else x
