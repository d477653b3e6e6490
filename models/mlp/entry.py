"""What is a multilayer perceptron, before it is built? Sizes, counts, legal degrees and cuts; no torch.

Rumelhart, Hinton and Williams, "Learning Representations by Back-propagating Errors" (1986). B samples.
"""

from dataclasses import dataclass
from itertools import pairwise
from math import gcd
from typing import Literal

from ..entry import Boundary, Entry, Shape, TensorPlan, Unit
from ..layers import shapes as of
from ..layers.shapes import size


@dataclass(frozen=True)
class MLPConfig:
    """Sizes of a multilayer perceptron.

    Raises:
        ValueError: there is no hidden layer, a size is not positive, or dropout is no probability below 1.
    """

    inputs: int = size(784, "numbers of a sample, in whatever shape it comes")
    hidden: tuple[int, ...] = size((512, 512), "numbers of each hidden layer")
    classes: int = size(10, "classes that are told apart")
    activation: Literal["relu", "tanh", "sigmoid", "gelu"] = size("relu", "what follows each hidden layer")
    dropout: float = size(0.0, "of each hidden layer's output")
    values: str = size("image", "the batch's tensor that is read")

    def __post_init__(self) -> None:
        if not self.hidden:
            raise ValueError("hidden=() names no layer; an MLP has at least one hidden layer")
        if min(self.widths) < 1:
            raise ValueError(
                f"inputs={self.inputs}, hidden={self.hidden}, classes={self.classes}: all must be positive"
            )
        if not 0.0 <= self.dropout < 1.0:
            raise ValueError(f"dropout={self.dropout} is not in [0, 1)")

    @property
    def widths(self) -> tuple[int, ...]:
        """Numbers of a sample before the first layer and after each."""
        return (self.inputs, *self.hidden, self.classes)

    @property
    def pairs(self) -> tuple[tuple[int, ...], ...]:
        """Widths of each pair of layers, (before, between, after); a last layer without a partner: (before, after)."""
        return tuple(self.widths[first : first + 3] for first in range(0, len(self.widths) - 1, 2))

    @property
    def common(self) -> int:
        """The largest number that divides the widths which tensor parallel splits: those within pairs."""
        return gcd(*(pair[1] for pair in self.pairs if len(pair) == 3))


PRESETS = {
    "tiny": MLPConfig(inputs=64, hidden=(64, 32, 32, 32, 32, 32, 32), dropout=0.05),
    "iris": MLPConfig(inputs=4, hidden=(16, 16), classes=3, values="features"),
    "mnist": MLPConfig(),
    "wide": MLPConfig(hidden=(8192, 8192, 8192)),
}


def shapes(config: MLPConfig) -> dict[str, Shape]:
    """Every parameter of the Program."""
    return of.within(
        **{
            f"pairs.{index}": of.within(
                **{name: of.linear(*ends) for name, ends in zip(("first", "second"), pairwise(pair), strict=False)}
            )
            for index, pair in enumerate(config.pairs)
        }
    )


def parameters(config: MLPConfig) -> int:
    """Elements of all weights."""
    return of.elements(shapes(config))


def units(config: MLPConfig) -> tuple[Unit, ...]:
    """Pairs of layers: between two pairs nothing is split over the tensor axis."""
    return of.units(shapes(config), [f"pairs.{index}" for index in range(len(config.pairs))])


def boundary(config: MLPConfig, samples: int, tokens: int) -> dict[int, Boundary]:
    """The output [B, width] of the pair before."""
    return {index: (((samples, pair[0]), "compute"),) for index, pair in enumerate(config.pairs)}


def flops(config: MLPConfig, tokens: int) -> float:
    """Forward FLOPs of one sample: 2 per weight of a matrix."""
    return 2.0 * sum(before * after for before, after in pairwise(config.widths))


def tensor(config: MLPConfig) -> TensorPlan:
    """The width within each pair is split; a last layer without a partner is not."""
    whole = [str(index) for index, pair in enumerate(config.pairs) if len(pair) == 3]
    return TensorPlan(
        columns=tuple(f"pairs.{index}.first" for index in whole),
        rows=tuple(f"pairs.{index}.second" for index in whole),
    )


ENTRY = Entry(
    build="shardwright.models.mlp.model:MLP",
    name="mlp",
    paper="Rumelhart, Hinton and Williams, Learning Representations by Back-propagating Errors, 1986",
    config=MLPConfig,
    presets=PRESETS,
    dataset="digits",
    parameters=parameters,
    shapes=shapes,
    flops=flops,
    units=units,
    boundary=boundary,
    tensor=tensor,
    divides={"tensor": "common"},
)
