"""What is MAML, before it is built? Sizes, counts and legal degrees; no torch.

Finn, Abbeel and Levine, "Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks" (2017), with its
convolutional classifier. A sample is a task. B samples.
"""

from dataclasses import dataclass

from ..entry import Entry, Shape, TensorPlan
from ..layers import shapes as of
from ..layers.shapes import size

KERNEL = 3


@dataclass(frozen=True)
class MAMLConfig:
    """Sizes of the classifier, and how it adapts to a task.

    Raises:
        ValueError: a size is not positive, or the images are too small for the layers.
    """

    side: int = size(28, "pixels of an image's side")
    channels: int = size(1, "colours")
    width: int = size(64, "channels of each convolution")
    layers: int = size(4, "convolutions, each followed by pooling that halves the sides")
    ways: int = size(5, "classes of a task")
    steps: int = size(1, "steps of gradient descent by which the classifier adapts")
    rate: float = size(0.4, "learning rate of these steps")
    first_order: bool = size(False, "take the adapted weights' gradient for the initial weights'")

    def __post_init__(self) -> None:
        for name in ("side", "channels", "width", "layers", "ways", "steps", "rate"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name}={getattr(self, name)} is not positive")
        if not self.last_side:
            raise ValueError(f"layers={self.layers} halve a side of {self.side} more often than it can be halved")

    @property
    def last_side(self) -> int:
        """Pixels of a side after the last pooling."""
        return self.side >> self.layers

    @property
    def features(self) -> int:
        """Numbers of an image that the last layer reads."""
        return self.width * self.last_side**2


PRESETS = {
    "tiny": MAMLConfig(side=8, width=16, layers=2, ways=3, steps=2, rate=0.2),
    "omniglot": MAMLConfig(),
}


def shapes(config: MAMLConfig) -> dict[str, Shape]:
    """Every parameter of the Program."""
    block = {
        str(layer): {
            "weight": (config.width, config.width if layer else config.channels, KERNEL, KERNEL),
            "scale": (config.width,),
            "shift": (config.width,),
        }
        for layer in range(config.layers)
    }
    return of.within(blocks=of.within(**block), head=of.linear(config.features, config.ways))


def parameters(config: MAMLConfig) -> int:
    """Elements of all weights."""
    return of.elements(shapes(config))


def flops(config: MAMLConfig, tokens: int) -> float:
    """Forward FLOPs of a task with one image of each class to learn from and as many to be asked about.

    Each step of adapting goes forward and back over the support images; the queries are met once.
    """
    pixels = [(config.side >> layer) ** 2 for layer in range(config.layers)]
    convolutions = pixels[0] * config.channels + sum(pixels[1:]) * config.width
    image = 2.0 * (convolutions * config.width * KERNEL**2 + config.features * config.ways)
    return config.ways * image * (3 * config.steps + 1)


def tensor(config: MAMLConfig) -> TensorPlan:
    """Layers in pairs: the first one's channels are split, the second sums. A last layer without a partner is whole."""
    own: dict[str, int] = {}
    for layer in range(0, config.layers, 2):
        own |= {f"blocks.{layer}.{name}": 0 for name in ("weight", "scale", "shift")}
        own[f"blocks.{layer + 1}.weight" if layer + 1 < config.layers else "head.weight"] = 1
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
    divides={"tensor": "width"},
    refusals={"pipeline": "adapting differentiates by all parameters inside forward, so no stage can hold a part of them"},
)
