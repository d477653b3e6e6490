"""What is MAML, before it is built? Sizes, counts and legal degrees; no torch.

Finn, Abbeel and Levine, "Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks" (2017), with its two
classifiers for Omniglot, of convolutions and of full connections. A sample is a task. B samples.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from math import gcd, prod

from ..entry import Entry, Shape, TensorPlan
from ..layers import shapes as of
from ..layers.shapes import size

KERNEL = 3


@dataclass(frozen=True)
class MAMLConfig:
    """Sizes of the classifier, and how it adapts to a task.

    Raises:
        ValueError: a size is not positive, there is no hidden layer, or the images are too small for the layers.
    """

    side: int = size(28, "pixels of an image's side")
    channels: int = size(1, "colours")
    widths: tuple[int, ...] = size((64, 64, 64, 64), "channels, or units, of each hidden layer")
    convolutions: bool = size(True, "the layers are convolutions, each followed by pooling that halves the sides")
    ways: int = size(5, "classes of a task")
    steps: int = size(1, "steps of gradient descent by which the classifier adapts")
    rate: float = size(0.4, "learning rate of these steps")
    first_order: bool = size(False, "take the adapted weights' gradient for the initial weights'")

    def __post_init__(self) -> None:
        for name in ("side", "channels", "ways", "steps", "rate"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name}={getattr(self, name)} is not positive")
        if not self.widths or min(self.widths) < 1:
            raise ValueError(f"widths={self.widths}: there must be one for each hidden layer, at least 1 each")
        if self.convolutions and not self.sides[-1]:
            raise ValueError(f"{len(self.widths)} layers halve a side of {self.side} more often than it can be halved")

    @property
    def sides(self) -> tuple[int, ...]:
        """Pixels of a side before each convolution, and after the last one's pooling."""
        return tuple(self.side >> layer for layer in range(len(self.widths) + 1))

    @property
    def layers(self) -> Iterator[tuple[int, int]]:
        """(channels or units before, after) of each hidden layer."""
        return pairwise((self.channels if self.convolutions else self.channels * self.side**2, *self.widths))

    @property
    def features(self) -> int:
        """Numbers of an image that the last layer reads."""
        return self.widths[-1] * (self.sides[-1] ** 2 if self.convolutions else 1)

    @property
    def common(self) -> int:
        """The largest number that divides the widths which tensor parallel splits: every other one."""
        return gcd(*self.widths[::2])


PRESETS = {
    "tiny": MAMLConfig(side=8, widths=(128,), convolutions=False, ways=3, steps=3, rate=0.1),
    "omniglot": MAMLConfig(),
    "omniglot_dense": MAMLConfig(widths=(256, 128, 64, 64), convolutions=False),
}


def shapes(config: MAMLConfig) -> dict[str, Shape]:
    """Every parameter of the Program."""
    kernel = (KERNEL, KERNEL) if config.convolutions else ()
    layers: dict[str, dict[str, Shape]] = {
        str(index): {"weight": (after, before, *kernel), "scale": (after,), "shift": (after,)}
        for index, (before, after) in enumerate(config.layers)
    }
    return of.within(layers=of.within(**layers), head=of.linear(config.features, config.ways))


def parameters(config: MAMLConfig) -> int:
    """Elements of all weights."""
    return of.elements(shapes(config))


def flops(config: MAMLConfig, tokens: int) -> float:
    """Forward FLOPs of a task with one image of each class to learn from and as many to be asked about.

    Each step of adapting goes forward and back over the support images; the queries are met once.
    """
    pixels = [side**2 * KERNEL**2 if config.convolutions else 1 for side in config.sides]
    hidden = sum(prod((*ends, each)) for ends, each in zip(config.layers, pixels, strict=False))
    return 2.0 * (hidden + config.features * config.ways) * config.ways * (3 * config.steps + 1)


def tensor(config: MAMLConfig) -> TensorPlan:
    """Layers in pairs: the first one's channels are split, the second sums. A last layer without a partner is whole."""
    own: dict[str, int] = {}
    for layer in range(0, len(config.widths), 2):
        own |= {f"layers.{layer}.{name}": 0 for name in ("weight", "scale", "shift")}
        own[f"layers.{layer + 1}.weight" if layer + 1 < len(config.widths) else "head.weight"] = 1
    return TensorPlan(own=own)


ENTRY = Entry(
    build="shardwright.models.maml.model:MAML",
    name="maml",
    paper="Finn, Abbeel and Levine, Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks, 2017",
    config=MAMLConfig,
    presets=PRESETS,
    dataset="digits_few_shot",
    parameters=parameters,
    shapes=shapes,
    flops=flops,
    tensor=tensor,
    divides={"tensor": "common"},
    refusals={
        "pipeline": "adapting differentiates by all parameters inside forward, so no stage could do with a part",
        "selective": "adapting goes back through the classifier twice, and torch allows it once; say full",
        "int8": "the adapted weights are made of what the classifier keeps, so rounding it would change the loss",
    },
)
