"""What does a perceptron compute? A sign, and after each sample that it gets wrong a correction of its weights.

Rosenblatt (1958). B samples, N inputs. No gradient is involved: forward goes through the samples of a batch in their
order, each meeting the weights that the one before it left, and proposes the sum of all corrections.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from .entry import PerceptronConfig

Term = tuple[Tensor, Tensor]


class Perceptron(nn.Module):
    """The Program: a batch to what it got wrong, and in training to the corrections."""

    def __init__(self, config: PerceptronConfig) -> None:
        super().__init__()
        self.config = config
        self.weight = nn.Parameter(torch.zeros(config.inputs), requires_grad=False)
        self.bias = nn.Parameter(torch.zeros(1), requires_grad=False)

    def forward(self, batch: Mapping[str, Tensor]) -> dict[str, Term | dict[str, Tensor]]:
        """What the samples met, and in training what they change.

        Args:
            batch: samples [B, ...] of N numbers under the config's `values`; "label" int64 [B].

        Returns:
            "loss": (sum of how far samples lie on the wrong side, B), "accuracy": (samples on the right side, B), and
            in training "update".
        """
        x, label = batch[self.config.values].flatten(1), batch["label"]
        side = torch.where(label == self.config.positive, 1.0, -1.0)
        weight, bias = self.weight.clone(), self.bias.clone()
        margins = [self.meet(*sample, weight, bias) for sample in zip(x, side, strict=True)]
        margin, count = torch.cat(margins), torch.tensor(float(len(x)), device=x.device)
        terms: dict[str, Term | dict[str, Tensor]] = {
            "loss": ((-margin).clamp(min=0.0).sum(), count),
            "accuracy": ((margin > 0).sum().float(), count),
        }
        return (
            {**terms, "update": {"weight": weight - self.weight, "bias": bias - self.bias}} if self.training else terms
        )

    def meet(self, x: Tensor, side: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """How far a sample [N] lies on its right side, [1]; in training it corrects weight and bias, in place."""
        margin = side * (weight @ x + bias)
        if self.training and margin <= 0:
            weight.add_(x * side, alpha=self.config.rate)
            bias.add_(side, alpha=self.config.rate)
        return margin
