"""What does a variational autoencoder compute? A bound on how likely samples are, through a noisy code.

Kingma and Welling, "Auto-Encoding Variational Bayes" (2013): a Gaussian posterior, a standard normal prior, a Bernoulli
likelihood, tanh layers (appendix C). B samples, H hidden numbers, Z numbers of a code.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..draw import normal
from .entry import VAEConfig

Terms = dict[str, tuple[Tensor, Tensor]]


class VAE(nn.Module):
    """The Program: a batch to the negative bound.

    A pipeline stage sets `posterior` or `likelihood` to None and drops pairs; what is left keeps its name.
    """

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = _pairs(config, "encoder")
        self.posterior: Posterior | None = Posterior(config)
        self.decoder = _pairs(config, "decoder")
        self.likelihood: Likelihood | None = Likelihood(config)

    def forward(self, batch: Mapping[str, Tensor], *state: Tensor) -> Terms | tuple[Tensor, ...]:
        """The objective, or what a stage hands on.

        Args:
            batch: samples [B, ...] in [0, 1] under the config's `values`; "key" int32 [B, 2].
            state: in a stage that does not begin the encoder, hidden numbers [B, H] or the code [B, Z]; behind the
                posterior also the divergence [B].

        Returns:
            In a stage without the likelihood, the next one's `state`. Otherwise, in nats, each with the count B:
            "reconstruction" (sum of cross-entropies of the pixels), "divergence" (sum over samples), and "loss", their
            sum with the divergence weighted by beta.
        """
        pixels = batch[self.config.values].flatten(1)
        x, rest = (state[0], state[1:]) if state else (pixels, ())
        for pair in self.encoder.values():
            x = pair(x)
        if self.posterior is not None:
            x, divergence = self.posterior(x, batch["key"])
            rest = (divergence,)
        for pair in self.decoder.values():
            x = pair(x)
        if self.likelihood is None:
            return (x, *rest)
        logits = self.likelihood(x)
        reconstruction = F.binary_cross_entropy_with_logits(logits.float(), pixels.float(), reduction="sum")
        return self._terms(reconstruction, rest[0].sum(), torch.tensor(float(len(pixels)), device=pixels.device))

    def reconstruct(self, samples: Tensor) -> Tensor:
        """Samples [B, ...] through the mean of their code, each number's probability [B, inputs]."""
        assert self.posterior is not None and self.likelihood is not None
        x = samples.flatten(1)
        for pair in self.encoder.values():
            x = pair(x)
        x, _ = self.posterior.moments(x)
        for pair in self.decoder.values():
            x = pair(x)
        return torch.sigmoid(self.likelihood(x))

    def _terms(self, reconstruction: Tensor, divergence: Tensor, count: Tensor) -> Terms:
        loss = reconstruction + self.config.beta * divergence
        return {"loss": (loss, count), "reconstruction": (reconstruction, count), "divergence": (divergence, count)}


class Pair(nn.Module):
    """Two tanh layers, [B, inputs] to [B, H]."""

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__()
        self.first = nn.Linear(inputs, hidden)
        self.second = nn.Linear(hidden, hidden)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.second(torch.tanh(self.first(x))))


class Posterior(nn.Module):
    """x [B, inputs] to a code [B, Z] drawn from N(mean, variance), and its divergence from N(0, 1), [B] in nats."""

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        self.expand = nn.Linear(config.before("encoder", config.pairs), config.hidden)
        self.mean = nn.Linear(config.hidden, config.code)
        self.log_variance = nn.Linear(config.hidden, config.code)

    def forward(self, x: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_variance = self.moments(x)
        noise = normal(key, "posterior", mean.shape[1:])
        code = mean + (0.5 * log_variance).exp() * noise
        return code.to(x.dtype), divergence(mean, log_variance)

    def moments(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and logarithm of the variance, fp32 [B, Z] each."""
        x = torch.tanh(self.expand(x))
        return self.mean(x).float(), self.log_variance(x).float()


class Likelihood(nn.Module):
    """x [B, Z or H] to the logits [B, inputs] of each number's probability of being 1."""

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        self.expand = nn.Linear(config.before("decoder", config.pairs), config.hidden)
        self.contract = nn.Linear(config.hidden, config.inputs)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.contract(torch.tanh(self.expand(x)))
        return result


def divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Kullback and Leibler's of N(mean, variance) from N(0, 1) by its closed form (appendix B), [B, Z] to [B]."""
    return 0.5 * (log_variance.exp() + mean.square() - 1.0 - log_variance).sum(-1)


def _pairs(config: VAEConfig, network: str) -> nn.ModuleDict:
    return nn.ModuleDict(
        {str(index): Pair(config.before(network, index), config.hidden) for index in range(config.pairs)}
    )
