"""What is a variational autoencoder, before it is built? Sizes, counts, legal degrees and cuts; no torch.

Kingma and Welling, "Auto-Encoding Variational Bayes" (2013), with the weight beta of Higgins et al., "beta-VAE" (2017).
B samples.
"""

from dataclasses import dataclass

from ..entry import Boundary, Entry, Shape, TensorPlan, Unit
from ..layers import shapes as of
from ..layers.shapes import size


@dataclass(frozen=True)
class VAEConfig:
    """Sizes of a variational autoencoder.

    Raises:
        ValueError: a size is not positive, or pairs or beta is negative.
    """

    inputs: int = size(784, "numbers of a sample, in whatever shape it comes; each in [0, 1]")
    hidden: int = size(500, "numbers of each hidden layer")
    code: int = size(20, "numbers that stand for a sample")
    pairs: int = size(0, "pairs of further hidden layers, in encoder and decoder each")
    beta: float = size(1.0, "weight of the divergence")
    values: str = size("image", "the batch's tensor that is read")

    def __post_init__(self) -> None:
        for name in ("inputs", "hidden", "code"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} is not positive")
        for name in ("pairs", "beta"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}={getattr(self, name)} is negative")

    def before(self, network: str, index: int) -> int:
        """Numbers that reach a part of the encoder or decoder: a pair, or what follows the pairs."""
        if index:
            return self.hidden
        return self.inputs if network == "encoder" else self.code


PRESETS = {
    "tiny": VAEConfig(inputs=64, hidden=64, code=4, pairs=1),
    "frey": VAEConfig(inputs=560, hidden=200, code=2),
    "mnist": VAEConfig(),
}


def paths(config: VAEConfig) -> list[str]:
    """Units in the order of use."""
    encoder, decoder = ([f"{network}.{index}" for index in range(config.pairs)] for network in ("encoder", "decoder"))
    return [*encoder, "posterior", *decoder, "likelihood"]


def shapes(config: VAEConfig) -> dict[str, Shape]:
    """Every parameter of the Program."""
    hidden, found = config.hidden, {}
    for network in ("encoder", "decoder"):
        for index in range(config.pairs):
            first = of.linear(config.before(network, index), hidden)
            found[f"{network}.{index}"] = of.within(first=first, second=of.linear(hidden, hidden))
    found["posterior"] = of.within(
        expand=of.linear(config.before("encoder", config.pairs), hidden),
        mean=of.linear(hidden, config.code),
        log_variance=of.linear(hidden, config.code),
    )
    found["likelihood"] = of.within(
        expand=of.linear(config.before("decoder", config.pairs), hidden), contract=of.linear(hidden, config.inputs)
    )
    return of.within(**found)


def parameters(config: VAEConfig) -> int:
    """Elements of all weights."""
    return of.elements(shapes(config))


def units(config: VAEConfig) -> tuple[Unit, ...]:
    """Pairs of the encoder, posterior, pairs of the decoder, likelihood."""
    return of.units(shapes(config), paths(config))


def boundary(config: VAEConfig, samples: int, tokens: int) -> dict[int, Boundary]:
    """Hidden numbers [B, hidden]; behind the posterior the code [B, code] first, and everywhere the divergence [B]."""
    hidden: Boundary = (((samples, config.hidden), "compute"),)
    code: Boundary = (((samples, config.code), "compute"),)
    divergence: Boundary = (((samples,), "float32"),)
    cuts = [hidden] * config.pairs + [code + divergence] + [hidden + divergence] * config.pairs
    return dict(enumerate(cuts, 1))


def flops(config: VAEConfig, tokens: int) -> float:
    """Forward FLOPs of one sample: 2 per weight of a matrix."""
    return 2.0 * sum(shape[0] * shape[1] for shape in shapes(config).values() if len(shape) == 2)


def tensor(config: VAEConfig) -> TensorPlan:
    """The hidden layer within each unit is split."""
    return TensorPlan(
        columns=("*coder.*.first", "posterior.expand", "likelihood.expand"),
        rows=("*coder.*.second", "posterior.mean", "posterior.log_variance", "likelihood.contract"),
    )


ENTRY = Entry(
    build="shardwright.models.vae.model:VAE",
    name="vae",
    paper="Kingma and Welling, Auto-Encoding Variational Bayes, 2013",
    config=VAEConfig,
    presets=PRESETS,
    dataset="digits",
    parameters=parameters,
    shapes=shapes,
    flops=flops,
    units=units,
    boundary=boundary,
    tensor=tensor,
    divides={"tensor": "hidden"},
)
