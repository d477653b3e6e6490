"""What is proximal policy optimization, before it is built? Sizes, counts, splits and what a slot carries; no torch.

Schulman et al., "Proximal Policy Optimization Algorithms" (2017), with the advantages of Schulman et al.,
"High-Dimensional Continuous Control Using Generalized Advantage Estimation" (2016). The world is CartPole, of 4 numbers
and 2 actions; policy and value are networks of their own with two hidden layers and tanh (the paper, section 6.1).
"""

from dataclasses import dataclass

from ..entry import Entry, Phase, Shape, Stream, TensorPlan
from ..environments.streams import slot_streams
from ..layers import shapes as of
from ..layers.shapes import size

NUMBERS, ACTIONS = 4, 2  # of the world
EPOCHS = 10  # passes over each experience, table 3


@dataclass(frozen=True)
class PPOConfig:
    """Sizes of the networks and of an experience, and what the objective weighs.

    Raises:
        ValueError: a size is not positive, or a share is none.
    """

    width: int = size(64, "numbers of each of the two hidden layers of policy and value")
    horizon: int = size(2048, "actions of each slot that one experience holds")
    discount: float = size(0.99, "worth of a reward one action later")
    smoothing: float = size(0.95, "lambda of the advantages: 0 looks one step ahead, 1 to the end")
    clip: float = size(0.2, "how far a policy's probabilities gain from leaving those that acted")
    value: float = size(0.5, "weight of the value's squared error")
    entropy: float = size(0.0, "weight of the policy's entropy")

    def __post_init__(self) -> None:
        for name in ("width", "horizon", "clip"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name}={getattr(self, name)} is not positive")
        for name in ("discount", "smoothing"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"{name}={getattr(self, name)} is not in [0, 1]")
        for name in ("value", "entropy"):
            if getattr(self, name) < 0.0:
                raise ValueError(f"{name}={getattr(self, name)} is negative")


PRESETS = {
    "tiny": PPOConfig(horizon=64, entropy=0.01),
    "mujoco": PPOConfig(),  # table 3
    "atari": PPOConfig(width=512, horizon=128, clip=0.1, value=1.0, entropy=0.01),  # table 5, its last hidden layer
}


def shapes(config: PPOConfig) -> dict[str, Shape]:
    """Every parameter of the Program."""
    body = of.within(first=of.linear(NUMBERS, config.width), second=of.linear(config.width, config.width))
    return of.within(
        policy={**body, **of.within(last=of.linear(config.width, ACTIONS))},
        value={**body, **of.within(last=of.linear(config.width, 1))},
    )


def parameters(config: PPOConfig) -> int:
    """Elements of all weights."""
    return of.elements(shapes(config))


def flops(config: PPOConfig, tokens: int) -> float:
    """Forward FLOPs of one slot's experience in one pass: 2 per weight of a matrix, of both networks."""
    return 2.0 * config.horizon * (2 * (NUMBERS + config.width) + ACTIONS + 1) * config.width


def streams(config: PPOConfig) -> dict[str, Stream]:
    """The episode that a slot is in, and the experience that every phase learns from."""
    steps = (config.horizon,)
    return {
        **slot_streams(NUMBERS),
        "states": Stream((*steps, NUMBERS)),
        "actions": Stream(steps, "int64"),
        "chances": Stream(steps),  # logarithm of the probability with which the action was drawn
        "advantages": Stream(steps),
        "worths": Stream(steps),  # what the value network is to learn
    }


def tensor(config: PPOConfig) -> TensorPlan:
    """What lies between the two hidden layers is split."""
    return TensorPlan(columns=("*.first",), rows=("*.second",))


ENTRY = Entry(
    build="shardwright.models.ppo.model:PPO",
    name="ppo",
    paper="Schulman et al., Proximal Policy Optimization Algorithms, 2017",
    config=PPOConfig,
    presets=PRESETS,
    data="experience",
    parameters=parameters,
    shapes=shapes,
    flops=flops,
    tensor=tensor,
    divides={"tensor": "width"},
    phases=(Phase("fresh"), Phase("again", times=EPOCHS - 1)),
    streams=streams,
    refusals={
        "pipeline": "an actor needs the whole network for each action before it can take the next, so stages would wait"
    },
)
