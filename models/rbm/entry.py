"""What is a restricted Boltzmann machine, before it is built? Sizes, counts and legal degrees; no torch.

Hinton, "Training Products of Experts by Minimizing Contrastive Divergence" (2002). B samples.
"""

from dataclasses import dataclass

from ..entry import Entry, Shape, TensorPlan
from ..layers import shapes as of
from ..layers.shapes import size


@dataclass(frozen=True)
class RBMConfig:
    """Sizes of a restricted Boltzmann machine.

    Raises:
        ValueError: a size is not positive, or the threshold lies outside [0, 1).
    """

    visible: int = size(256, "visible units: the pixels of an image")
    hidden: int = size(500, "hidden units")
    chain: int = size(1, "steps of Gibbs sampling from a sample to what is contrasted with it (the k of CD-k)")
    threshold: float = size(0.5, "a pixel is on where it exceeds this")

    def __post_init__(self) -> None:
        for name in ("visible", "hidden", "chain"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} is not positive")
        if not 0.0 <= self.threshold < 1.0:
            raise ValueError(f"threshold={self.threshold} is not in [0, 1), where pixels lie")


PRESETS = {
    "tiny": RBMConfig(visible=64, hidden=64),
    "paper": RBMConfig(),  # 16 x 16 images of digits
    "mnist": RBMConfig(visible=784),
}


def shapes(config: RBMConfig) -> dict[str, Shape]:
    """Every parameter of the Program."""
    return {
        "weight": (config.visible, config.hidden),
        "visible_bias": (config.visible,),
        "hidden_bias": (config.hidden,),
    }


def parameters(config: RBMConfig) -> int:
    """Elements of all weights."""
    return of.elements(shapes(config))


def flops(config: RBMConfig, tokens: int) -> float:
    """Forward FLOPs of one sample: the weight is used twice a step of the chain, and once by each free energy."""
    return 2.0 * (2 * config.chain + 2) * config.visible * config.hidden


def tensor(config: RBMConfig) -> TensorPlan:
    """The hidden units are split."""
    return TensorPlan(own={"weight": 1, "hidden_bias": 0})


ENTRY = Entry(
    build="shardwright.models.rbm.model:RBM",
    name="rbm",
    paper="Hinton, Training Products of Experts by Minimizing Contrastive Divergence, 2002",
    config=RBMConfig,
    presets=PRESETS,
    dataset="digits",
    parameters=parameters,
    shapes=shapes,
    flops=flops,
    tensor=tensor,
    divides={"tensor": "hidden"},
    refusals={"pipeline": "a chain of Gibbs sampling goes back and forth through its one layer"},
)
