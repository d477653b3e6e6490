"""What is WGAN-GP, before it is built? Sizes, counts, the two networks' turns and legal degrees; no torch.

Gulrajani et al., "Improved Training of Wasserstein GANs" (2017); the networks are those of its code for MNIST, which
normalise nothing over the batch. B samples.
"""

from dataclasses import dataclass

from ..entry import Entry, Phase, Shape, TensorPlan
from ..layers import shapes as of
from ..layers.shapes import size

KERNEL = 5  # of every convolution, whose stride is 2


@dataclass(frozen=True)
class WGANGPConfig:
    """Sizes of WGAN-GP.

    Raises:
        ValueError: a size is not positive, the penalty is negative, or the images are too small for the levels.
    """

    side: int = size(28, "pixels of an image's side")
    channels: int = size(1, "colours")
    width: int = size(64, "channels of the critic's first layer and before the generator's last; doubled each level")
    levels: int = size(3, "convolutions of the critic and of the generator, each halving or doubling the sides")
    latent: int = size(128, "numbers that an image is made from")
    penalty: float = size(10.0, "weight of the gradient penalty (lambda)")

    def __post_init__(self) -> None:
        for name in ("side", "channels", "width", "levels", "latent"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} is not positive")
        if self.penalty < 0:
            raise ValueError(f"penalty={self.penalty} is negative")
        if self.sides[-2] < 2:
            raise ValueError(f"levels={self.levels} halve a side of {self.side} more often than it can be halved")

    @property
    def sides(self) -> tuple[int, ...]:
        """Pixels of a side after each of the critic's convolutions, the image's first."""
        return tuple(-(-self.side // 2**level) for level in range(self.levels + 1))

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels after each of the critic's convolutions, the image's first."""
        return (self.channels, *(self.width * 2**level for level in range(self.levels)))


PRESETS = {
    "tiny": WGANGPConfig(side=8, width=16, levels=2, latent=16),
    "mnist": WGANGPConfig(),
}

PHASES = (Phase("critic", ("critic.*",), times=5), Phase("generator", ("generator.*",)))


def shapes(config: WGANGPConfig) -> dict[str, Shape]:
    """Every parameter of the Program."""
    last, side = config.widths[-1], config.sides[-1]
    shrink, grow = {}, {}
    for level in range(config.levels):
        small, large = config.widths[level + 1], config.widths[level]
        shape = (small, large, KERNEL, KERNEL)
        shrink[str(level)] = {"weight": shape, "bias": (small,)}
        grow[str(config.levels - 1 - level)] = {"weight": shape, "bias": (large,)}
    return of.within(
        critic=of.within(shrink=of.within(**shrink), score=of.linear(last * side**2, 1)),
        generator=of.within(project=of.linear(config.latent, last * side**2), grow=of.within(**grow)),
    )


def parameters(config: WGANGPConfig) -> int:
    """Elements of all weights."""
    return of.elements(shapes(config))


def flops(config: WGANGPConfig, tokens: int) -> float:
    """Forward FLOPs of one sample, averaged over a cycle of phases.

    A critic's step makes an image, judges three, and goes back once through the critic for the gradient penalty; a
    generator's step makes an image and judges it.
    """
    convolutions = sum(
        side**2 * KERNEL**2 * before * after
        for side, before, after in zip(config.sides[1:], config.widths, config.widths[1:], strict=False)
    )
    one = 2.0 * (convolutions + config.widths[-1] * config.sides[-1] ** 2)
    made = 2.0 * (convolutions + config.latent * config.widths[-1] * config.sides[-1] ** 2)
    critic, generator = (phase.times for phase in PHASES)
    return (critic * (made + 4 * one) + generator * (made + one)) / (critic + generator)


def tensor(config: WGANGPConfig) -> TensorPlan:
    """Layers in pairs: the first one's channels are split, the second sums. A last layer without a partner is whole."""
    critic = [*(f"critic.shrink.{level}" for level in range(config.levels)), "critic.score"]
    generator = ["generator.project", *(f"generator.grow.{level}" for level in range(config.levels))]
    pairs = [pair for chain in (critic, generator) for pair in zip(chain[::2], chain[1::2], strict=False)]
    return TensorPlan(columns=tuple(first for first, _ in pairs), rows=tuple(second for _, second in pairs))


ENTRY = Entry(
    build="shardwright.models.wgan_gp.model:WGANGP",
    name="wgan_gp",
    paper="Gulrajani et al., Improved Training of Wasserstein GANs, 2017",
    config=WGANGPConfig,
    presets=PRESETS,
    dataset="digits",
    parameters=parameters,
    shapes=shapes,
    flops=flops,
    tensor=tensor,
    divides={"tensor": "width"},
    phases=PHASES,
    refusals={
        "pipeline": "the gradient penalty differentiates the whole critic inside forward, so it cannot be cut",
        "selective": "the gradient penalty goes back through the critic twice, and torch allows it once; say full",
        "int8": "the gradient penalty is made of what the critic keeps, so rounding it would change the loss",
    },
)
