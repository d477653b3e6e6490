"""What is a deep Q-network, before it is built? Sizes, counts, splits and what a slot remembers; no torch.

Mnih et al., "Human-level Control through Deep Reinforcement Learning" (2015); with `double`, van Hasselt, Guez and
Silver, "Deep Reinforcement Learning with Double Q-learning" (2016). The world is CartPole, of 4 numbers and 2 actions,
so the network is a perceptron where the paper's, for the screen of an Atari, begins with convolutions.
"""

from dataclasses import dataclass

from ..entry import Entry, Follow, Shape, Stream, TensorPlan
from ..environments.streams import slot_streams
from ..layers import shapes as of
from ..layers.shapes import size

NUMBERS, ACTIONS = 4, 2  # of the world
ROW = 2 * NUMBERS + 3  # of a transition: state, next state, action, reward, whether nothing comes after


@dataclass(frozen=True)
class DQNConfig:
    """Sizes of a deep Q-network and of its experience.

    Raises:
        ValueError: a size is not positive, or a share is none.
    """

    width: int = size(512, "numbers of each of the two hidden layers")
    memory: int = size(31250, "newest transitions that each slot remembers")
    horizon: int = size(4, "actions of each slot before an update")
    replay: int = size(1, "remembered transitions of each slot that an update learns from")
    discount: float = size(0.99, "worth of a reward one action later")
    explore_for: int = size(31250, "actions of a slot over which exploration falls from always to its last share")
    explore: float = size(0.1, "last share of actions that are drawn at random")
    copy_every: int = size(10000, "updates between two copies of the network into the target network")
    double: bool = size(False, "the network chooses the next action and the target network values it")

    def __post_init__(self) -> None:
        for name in ("width", "memory", "horizon", "replay", "explore_for", "copy_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} is not positive")
        for name in ("discount", "explore"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"{name}={getattr(self, name)} is not in [0, 1]")
        if self.horizon > self.memory:
            raise ValueError(f"horizon={self.horizon} actions do not fit into memory={self.memory}")


PRESETS = {
    "tiny": DQNConfig(width=128, memory=4000, replay=16, discount=0.98, explore_for=500, explore=0.02, copy_every=50),
    "nature": DQNConfig(),  # with a global batch of 32 slots: a million transitions, updates on 32
    "double": DQNConfig(double=True),
}


def shapes(config: DQNConfig) -> dict[str, Shape]:
    """Every parameter of the Program."""
    network = of.within(
        first=of.linear(NUMBERS, config.width),
        second=of.linear(config.width, config.width),
        values=of.linear(config.width, ACTIONS),
    )
    return of.within(online=network, target=network)


def parameters(config: DQNConfig) -> int:
    """Elements of both networks; half of them are trained."""
    return of.elements(shapes(config))


def flops(config: DQNConfig, tokens: int) -> float:
    """A third of the FLOPs of one slot's step (what a forward is where backward takes two): 2 per weight of a matrix
    and pass, one for each action, and for what is learnt three of the network, and one or two for the targets.
    """
    weights = (NUMBERS + config.width + ACTIONS) * config.width
    return 2.0 * weights * (config.horizon + config.replay * (4 + config.double)) / 3


def streams(config: DQNConfig) -> dict[str, Stream]:
    """The episode that a slot is in, the ring of its transitions, and how many actions it has taken."""
    return {**slot_streams(NUMBERS), "memory": Stream((config.memory, ROW)), "acted": Stream((), "int64")}


def follows(config: DQNConfig) -> tuple[Follow, ...]:
    """The target network is a copy that stands still between two copies."""
    return (Follow("target", "online", decay=0.0, every=config.copy_every),)


def tensor(config: DQNConfig) -> TensorPlan:
    """What lies between the first two layers is split."""
    return TensorPlan(columns=("*.first",), rows=("*.second",))


ENTRY = Entry(
    build="shardwright.models.dqn.model:DQN",
    name="dqn",
    paper="Mnih et al., Human-level Control through Deep Reinforcement Learning, 2015",
    config=DQNConfig,
    presets=PRESETS,
    data="experience",
    parameters=parameters,
    shapes=shapes,
    flops=flops,
    tensor=tensor,
    divides={"tensor": "width"},
    streams=streams,
    follows=follows,
    refusals={
        "pipeline": "an actor needs the whole network for each action before it can take the next, so stages would wait"
    },
)
