"""What is a neural ODE, before it is built? Sizes, counts and legal degrees; no torch.

Chen, Rubanova, Bettencourt and Duvenaud, "Neural Ordinary Differential Equations" (2018). A sample is a series of T
values. B samples.
"""

from dataclasses import dataclass

from ..entry import Entry, Shape, TensorPlan
from ..layers import shapes as of
from ..layers.shapes import size


@dataclass(frozen=True)
class NeuralODEConfig:
    """Sizes of a neural ODE that forecasts a series.

    Raises:
        ValueError: a size is not positive.
    """

    seen: int = size(22, "values that are given; those behind them are forecast")
    encoder: int = size(25, "hidden units between the values that are given and the first state")
    state: int = size(4, "numbers of the state whose motion is learned")
    hidden: int = size(20, "hidden units of the state's motion, and between a state and its value")
    steps: int = size(1, "steps of the solver between two times of the series")

    def __post_init__(self) -> None:
        for name in ("seen", "encoder", "state", "hidden", "steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} is not positive")


PRESETS = {
    "tiny": NeuralODEConfig(encoder=32, state=8, hidden=32),
    "paper": NeuralODEConfig(),  # the latent dynamics of its section 5
}


def shapes(config: NeuralODEConfig) -> dict[str, Shape]:
    """Every parameter of the Program."""
    return of.within(
        encoder=pair(config.seen, config.encoder, config.state),
        motion=pair(config.state + 1, config.hidden, config.state),
        decoder=pair(config.state, config.hidden, 1),
    )


def pair(before: int, between: int, after: int) -> dict[str, Shape]:
    """Of two linear layers."""
    return of.within(expand=of.linear(before, between), contract=of.linear(between, after))


def parameters(config: NeuralODEConfig) -> int:
    """Elements of all weights."""
    return of.elements(shapes(config))


def flops(config: NeuralODEConfig, tokens: int) -> float:
    """Forward FLOPs of one sample whose forecast is half as long as what was seen: 4 of the motion a step."""
    motion = (2 * config.state + 1) * config.hidden
    ahead = config.seen // 2
    first = (config.seen + config.state) * config.encoder
    return 2.0 * (first + ahead * (4 * config.steps * motion + (config.state + 1) * config.hidden))


def tensor(config: NeuralODEConfig) -> TensorPlan:
    """The hidden units of the motion and of the decoder are split; the encoder, met once, is not."""
    return TensorPlan(
        columns=("motion.expand", "decoder.expand"),
        rows=("motion.contract", "decoder.contract"),
    )


ENTRY = Entry(
    build="shardwright.models.neural_ode.model:NeuralODE",
    name="neural_ode",
    paper="Chen et al., Neural Ordinary Differential Equations, 2018",
    config=NeuralODEConfig,
    presets=PRESETS,
    dataset="sunspots",
    parameters=parameters,
    shapes=shapes,
    flops=flops,
    tensor=tensor,
    divides={"tensor": "hidden"},
    refusals={"pipeline": "the solver calls the state's motion many times in a row, forward and back"},
)
