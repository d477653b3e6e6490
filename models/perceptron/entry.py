"""What is a perceptron, before it is built? Its inputs, and why no layout can split it; no torch.

Rosenblatt, "The Perceptron: A Probabilistic Model for Information Storage and Organization in the Brain" (1958).
"""

from dataclasses import dataclass

from ..entry import Entry, Shape
from ..layers.shapes import elements, size

ONE_BY_ONE = "the rule corrects the weights sample by sample, each time those that the sample before left behind"


@dataclass(frozen=True)
class PerceptronConfig:
    """Sizes of a perceptron.

    Raises:
        ValueError: there is no input, no such class, or the step is not positive.
    """

    inputs: int = size(400, "numbers of a sample, in whatever shape it comes")
    positive: int = size(1, "the label that is told apart from all others")
    rate: float = size(1.0, "step of a correction")
    values: str = size("features", "the batch's tensor that is read")

    def __post_init__(self) -> None:
        if self.inputs < 1:
            raise ValueError(f"inputs={self.inputs} is not positive")
        if self.positive < 0:
            raise ValueError(f"positive={self.positive} is no label")
        if self.rate <= 0.0:
            raise ValueError(f"rate={self.rate} is not positive")


PRESETS = {
    "tiny": PerceptronConfig(inputs=4, positive=0),  # one species of iris
    "breast_cancer": PerceptronConfig(inputs=30),
    "mark1": PerceptronConfig(values="image"),  # the retina of 20 x 20 cells
}


def shapes(config: PerceptronConfig) -> dict[str, Shape]:
    """Every parameter of the Program."""
    return {"weight": (config.inputs,), "bias": (1,)}


def parameters(config: PerceptronConfig) -> int:
    """Elements of all weights."""
    return elements(shapes(config))


def flops(config: PerceptronConfig, tokens: int) -> float:
    """FLOPs of one sample, forward: 2 per weight."""
    return 2.0 * config.inputs


ENTRY = Entry(
    build="shardwright.models.perceptron.model:Perceptron",
    name="perceptron",
    paper="Rosenblatt, The Perceptron: A Probabilistic Model for Information Storage and Organization in the Brain, "
    "1958",
    config=PerceptronConfig,
    presets=PRESETS,
    dataset="iris",
    parameters=parameters,
    shapes=shapes,
    flops=flops,
    coupled="batch",
    solver="shardwright.trainers.solvers:Rule",
    refusals=dict.fromkeys(("replicate", "shard", "tensor", "pipeline", "context", "expert"), ONE_BY_ONE),
)
