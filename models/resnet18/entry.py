"""What is a residual network of basic blocks, before it is built? Sizes, counts, legal degrees and cuts; no torch.

He, Zhang, Ren and Sun, "Deep Residual Learning for Image Recognition" (2015), ResNet-18 and 34. B samples.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil
from typing import Literal

from ..entry import Boundary, Entry, Shape, TensorPlan, Unit
from ..layers import shapes as of
from ..layers.shapes import size


@dataclass(frozen=True)
class FeatureSizes:
    """Sizes of a residual network below its head.

    Raises:
        ValueError: a size is not positive, or blocks and strides differ in length.
    """

    width: int = size(64, "channels of the first stage; each later one has twice as many")
    blocks: tuple[int, ...] = size((2, 2, 2, 2), "basic blocks of each stage")
    strides: tuple[int, ...] = size((1, 2, 2, 2), "of the first block of each stage")
    stem: Literal["paper", "small"] = size("paper", "7x7 of stride 2 and a pool of stride 2; or, for small images, 3x3")
    channels: int = size(3, "of an image")
    image: int = size(224, "pixels along each side of an image")

    def __post_init__(self) -> None:
        if len(self.blocks) != len(self.strides) or not self.blocks:
            raise ValueError(f"blocks={self.blocks} and strides={self.strides} must name the same stages, at least one")
        for name in ("width", "blocks", "strides", "channels", "image"):
            value = getattr(self, name)
            if (min(value) if isinstance(value, tuple) else value) < 1:
                raise ValueError(f"{name}={value} is not positive")

    @property
    def layout(self) -> tuple[tuple[int, int, int], ...]:
        """(channels in, channels out, stride) of every block."""
        found, channels = [], self.width
        for stage, (count, stride) in enumerate(zip(self.blocks, self.strides, strict=True)):
            for block in range(count):
                found.append((channels, self.width << stage, 1 if block else stride))
                channels = self.width << stage
        return tuple(found)

    @property
    def features(self) -> int:
        """Channels after the last block."""
        return self.layout[-1][1]

    @property
    def sides(self) -> tuple[int, ...]:
        """Pixels along each side after the stem and after every block."""
        sides = [ceil(ceil(self.image / 2) / 2) if self.stem == "paper" else self.image]
        for _, _, stride in self.layout:
            sides.append(ceil(sides[-1] / stride))
        return tuple(sides)


@dataclass(frozen=True)
class ResNetConfig(FeatureSizes):
    """Sizes of a residual network that classifies.

    Raises:
        ValueError: as FeatureSizes, or there is no class.
    """

    classes: int = size(1000, "classes that are told apart")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.classes < 1:
            raise ValueError(f"classes={self.classes} is not positive")


PRESETS = {
    "tiny": ResNetConfig(width=4, strides=(1, 2, 2, 1), stem="small", channels=1, image=8, classes=10),
    "imagenet": ResNetConfig(),
    "imagenet34": ResNetConfig(blocks=(3, 4, 6, 3)),
    "cifar10": ResNetConfig(stem="small", image=32, classes=10),
}


def convolutions(config: FeatureSizes) -> Iterator[tuple[str, int, int, int, int]]:
    """(path, channels in, channels out, pixels along a kernel's side, along the result's side) of each convolution."""
    after = ceil(config.image / 2) if config.stem == "paper" else config.image
    yield "stem.convolution", config.channels, config.width, 7 if config.stem == "paper" else 3, after
    for index, ((inputs, outputs, stride), side) in enumerate(zip(config.layout, config.sides[1:], strict=True)):
        yield f"blocks.{index}.first", inputs, outputs, 3, side
        yield f"blocks.{index}.second", outputs, outputs, 3, side
        if stride > 1 or inputs != outputs:
            yield f"blocks.{index}.shortcut", inputs, outputs, 1, side


def feature_shapes(config: FeatureSizes) -> dict[str, Shape]:
    """Every parameter of the network below its head: convolutions, each with a norm behind it."""
    found: dict[str, Shape] = {}
    for path, inputs, outputs, kernel, _ in convolutions(config):
        norm = "stem.norm" if path == "stem.convolution" else f"{path}_norm"
        found[f"{path}.weight"] = (outputs, inputs, kernel, kernel)
        found |= {f"{norm}.{name}": shape for name, shape in of.norm(outputs).items()}
    return found


def feature_units(config: FeatureSizes) -> list[str]:
    """The stem and each block."""
    return ["stem", *(f"blocks.{index}" for index in range(len(config.layout)))]


def feature_flops(config: FeatureSizes) -> float:
    """Forward FLOPs of one image: 2 per weight of a kernel and place it is laid on."""
    return sum(
        2.0 * inputs * outputs * kernel**2 * side**2 for _, inputs, outputs, kernel, side in convolutions(config)
    )


def feature_plan(above: str) -> TensorPlan:
    """The channels within each block are split, and so is the norm between its two convolutions.

    Args:
        above: path of the features, with a dot behind it.
    """
    return TensorPlan(
        columns=(f"{above}blocks.*.first",),
        rows=(f"{above}blocks.*.second",),
        own={f"{above}blocks.*.first_norm.*": 0},
    )


def shapes(config: ResNetConfig) -> dict[str, Shape]:
    """Every parameter of the Program."""
    return of.within(features=feature_shapes(config), head=of.linear(config.features, config.classes))


def parameters(config: ResNetConfig) -> int:
    """Elements of all weights."""
    return of.elements(shapes(config))


def units(config: ResNetConfig) -> tuple[Unit, ...]:
    """Stem, each block, head."""
    return of.units(shapes(config), [*(f"features.{path}" for path in feature_units(config)), "head"])


def boundary(config: ResNetConfig, samples: int, tokens: int) -> dict[int, Boundary]:
    """The feature map [B, channels, side, side] of the unit before."""
    channels = (config.width, *(outputs for _, outputs, _ in config.layout))
    maps = zip(channels, config.sides, strict=True)
    return {unit: (((samples, width, side, side), "compute"),) for unit, (width, side) in enumerate(maps, 1)}


def flops(config: ResNetConfig, tokens: int) -> float:
    """Forward FLOPs of one sample."""
    return feature_flops(config) + 2.0 * config.features * config.classes


def tensor(config: ResNetConfig) -> TensorPlan:
    """The channels within each block are split."""
    return feature_plan("features.")


ENTRY = Entry(
    build="shardwright.models.resnet18.model:ResNet",
    name="resnet18",
    paper="He, Zhang, Ren and Sun, Deep Residual Learning for Image Recognition, 2015",
    config=ResNetConfig,
    presets=PRESETS,
    dataset="digits",
    parameters=parameters,
    shapes=shapes,
    flops=flops,
    units=units,
    boundary=boundary,
    tensor=tensor,
    divides={"tensor": "width"},
    coupled="data",
)
