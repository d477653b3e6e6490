"""What does a restricted Boltzmann machine compute? Energies, and the contrast between data and its own samples.

Hinton, "Training Products of Experts by Minimizing Contrastive Divergence" (2002). B samples, V visible units, H hidden
units (of this rank, under tensor parallel). Energy E(v, h) = -(b v + c h + v W h) in nats; p(v, h) is proportional to
exp(-E). The free energy F(v) = -log sum_h exp(-E(v, h)) has the gradient that contrastive divergence needs: that of
F(data) - F(model), where the model's samples are taken as given, is CD-k.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..axes import ALONE, Axes, local
from ..draw import bernoulli
from ..layers.collectives import enter, leave
from .entry import RBMConfig

Terms = dict[str, tuple[Tensor, Tensor]]


class RBM(nn.Module):
    """The Program: binary images to the contrast of their free energies with those of the chain's ends.

    Under tensor parallel a rank holds the hidden units [index * H, (index + 1) * H) of its place on that axis.
    """

    axes: Axes = ALONE

    def __init__(self, config: RBMConfig) -> None:
        super().__init__()
        self.config = config
        self.weight = nn.Parameter(torch.empty(config.visible, config.hidden))
        self.visible_bias = nn.Parameter(torch.zeros(config.visible))
        self.hidden_bias = nn.Parameter(torch.zeros(config.hidden))
        nn.init.normal_(self.weight, std=0.01)

    def forward(self, batch: Mapping[str, Tensor]) -> Terms:
        """The objective.

        Args:
            batch: "image" [B, ...] of V numbers in [0, 1]; "key" int32 [B, 2].

        Returns:
            "loss": (sum of F(data) - F(model), B), whose gradient is CD-k and whose value says little;
            "reconstruction": (sum of -log p(data | hidden probabilities given data) in nats, B); and in evaluation
            "pseudo_likelihood": (sum over samples and pixels of log p(pixel | all others) in nats, B).
        """
        data = (batch["image"].flatten(1) > self.config.threshold).float()
        model = self.chain(data, batch["key"])
        count = data.new_tensor(float(len(data)))
        terms = {
            "loss": ((self.free_energy(data) - self.free_energy(model)).sum(), count),
            "reconstruction": (self.reconstruction(data).sum(), count),
        }
        return terms if self.training else {**terms, "pseudo_likelihood": (self.pseudo_likelihood(data).sum(), count)}

    def free_energy(self, visible: Tensor) -> Tensor:
        """F(v) of v [B, V], in nats, [B]."""
        hidden = leave(F.softplus(self.given_visible(visible)).sum(-1), self.axes.tensor)
        return -(visible @ self.visible_bias) - hidden

    def given_visible(self, visible: Tensor) -> Tensor:
        """Log-odds of this rank's hidden units being on, [B, H]."""
        return enter(visible, self.axes.tensor) @ local(self.weight) + local(self.hidden_bias)

    def given_hidden(self, hidden: Tensor) -> Tensor:
        """Log-odds of the visible units being on, [B, V], given this rank's hidden ones [B, H]."""
        return leave(hidden @ local(self.weight).T, self.axes.tensor) + self.visible_bias

    @torch.no_grad()
    def chain(self, visible: Tensor, key: Tensor, name: str = "chain") -> Tensor:
        """Where k steps of Gibbs sampling lead from v [B, V], [B, V]; every sample draws its own numbers."""
        for step in range(self.config.chain):
            odds = self.given_visible(visible)
            own = odds.shape[1]
            first, all_units = (self.axes.tensor.index * own,), (self.config.hidden,)
            hidden = bernoulli(key, f"{name}.hidden.{step}", odds.sigmoid(), (own,), first, all_units).float()
            odds = self.given_hidden(hidden)
            visible = bernoulli(key, f"{name}.visible.{step}", odds.sigmoid(), odds.shape[1:]).float()
        return visible

    @torch.no_grad()
    def reconstruction(self, visible: Tensor) -> Tensor:
        """-log p(v | the probabilities of hidden units given v) of v [B, V], in nats, [B]."""
        odds = self.given_hidden(self.given_visible(visible).sigmoid())
        return F.binary_cross_entropy_with_logits(odds, visible, reduction="none").sum(-1)

    @torch.no_grad()
    def pseudo_likelihood(self, visible: Tensor) -> Tensor:
        """The sum over units i of log p(v_i | all other v) of v [B, V], in nats, [B] (Besag 1975).

        A unit is compared with its opposite: log p = -softplus(F(v) - F(v with unit i turned)).
        """
        turn = 1.0 - 2.0 * visible
        odds = self.given_visible(visible)[:, None]
        turned = odds + turn[..., None] * local(self.weight)  # [B, V, H]
        gain = leave((F.softplus(turned) - F.softplus(odds)).sum(-1), self.axes.tensor) + turn * self.visible_bias
        return -F.softplus(gain).sum(-1)
