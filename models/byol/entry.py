"""What is BYOL, before it is built? Sizes, counts, legal degrees and what follows what; no torch.

Grill et al., "Bootstrap Your Own Latent: A New Approach to Self-Supervised Learning" (2020).
"""

from dataclasses import dataclass, replace
from functools import partial
from math import cos, pi

from ..entry import Entry, Follow, Shape, TensorPlan, Unit
from ..layers import shapes as of
from ..layers.shapes import size
from ..layers.view_sizes import ViewSizes
from ..resnet18.entry import FeatureSizes, feature_flops, feature_plan, feature_shapes, feature_units


@dataclass(frozen=True)
class BYOLConfig(FeatureSizes, ViewSizes):
    """Sizes of the encoder and of the heads, strengths of the views, and how fast the target follows.

    Raises:
        ValueError: a size is not positive, a decay outside [0, 1], or a strength outside its range.
    """

    hidden: int = size(4096, "numbers of the hidden layer of projection and prediction")
    embedding: int = size(256, "numbers of an embedding")
    decay: float = size(0.996, "share of itself that the target keeps at the first update; it rises to 1")

    def __post_init__(self) -> None:
        FeatureSizes.__post_init__(self)
        ViewSizes.__post_init__(self)
        for name in ("hidden", "embedding"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} is not positive")
        if not 0.0 <= self.decay <= 1.0:
            raise ValueError(f"decay={self.decay} is not in [0, 1]")


DIGITS = BYOLConfig(
    width=8,
    blocks=(1, 1, 1),
    strides=(1, 2, 2),
    stem="small",
    channels=1,
    image=8,
    hidden=256,
    embedding=64,
    decay=0.95,
    crop=0.5,
    turn=15.0,
    flip=0.0,
    jitter=0.5,
    noise=0.1,
)
PRESETS = {
    "tiny": replace(DIGITS, strides=(2, 2, 1), hidden=64, embedding=32),
    "digits": DIGITS,
    "imagenet": BYOLConfig(),
    "cifar10": BYOLConfig(stem="small", image=32, jitter=0.5, hidden=512, embedding=128),
}


def follows(config: BYOLConfig) -> tuple[Follow, ...]:
    """The target network follows the online one after every update."""
    return (Follow("target", "online", partial(decay, config.decay)),)


def decay(base: float, updates: int, steps: int) -> float:
    """1 - (1 - base) (cos(pi k / K) + 1) / 2 at update k of K: from nearly `base` to 1."""
    return 1.0 - (1.0 - base) * (cos(pi * updates / steps) + 1.0) / 2.0


def head(inputs: int, config: BYOLConfig) -> dict[str, Shape]:
    """Of a projection or prediction."""
    return of.within(
        expand=of.linear(inputs, config.hidden),
        norm=of.norm(config.hidden),
        contract=of.linear(config.hidden, config.embedding),
    )


def shapes(config: BYOLConfig) -> dict[str, Shape]:
    """Every parameter of the Program; those of the target are not trained."""
    network = of.within(encoder=feature_shapes(config), projection=head(config.features, config))
    return of.within(online=network, target=network, prediction=head(config.embedding, config))


def parameters(config: BYOLConfig) -> int:
    """Elements of all weights, the target's among them."""
    return of.elements(shapes(config))


def units(config: BYOLConfig) -> tuple[Unit, ...]:
    """Stem, blocks and projection of either network, and the prediction."""
    below = (*(f"encoder.{path}" for path in feature_units(config)), "projection")
    paths = [f"{network}.{path}" for network in ("online", "target") for path in below]
    return of.units(shapes(config), [*paths, "prediction"])


def flops(config: BYOLConfig, tokens: int) -> float:
    """Forward FLOPs of one sample, which each network sees twice."""
    projection = 2.0 * config.hidden * (config.features + config.embedding)
    prediction = 2.0 * config.hidden * 2 * config.embedding
    return 2.0 * (2.0 * (feature_flops(config) + projection) + prediction)


def tensor(config: BYOLConfig) -> TensorPlan:
    """The channels within each block and the hidden layer of each head are split."""
    encoder = feature_plan("*.encoder.")
    heads = ("*.projection", "prediction")
    return TensorPlan(
        columns=(*encoder.columns, *(f"{head}.expand" for head in heads)),
        rows=(*encoder.rows, *(f"{head}.contract" for head in heads)),
        own={**encoder.own, **{f"{head}.norm.*": 0 for head in heads}},
    )


ENTRY = Entry(
    build="shardwright.models.byol.model:BYOL",
    name="byol",
    paper="Grill et al., Bootstrap Your Own Latent: A New Approach to Self-Supervised Learning, 2020",
    config=BYOLConfig,
    presets=PRESETS,
    dataset="digits",
    parameters=parameters,
    shapes=shapes,
    flops=flops,
    units=units,
    tensor=tensor,
    divides={"tensor": ("width", "hidden")},
    coupled="data",
    follows=follows,
    refusals={
        "pipeline": "a sample passes through two networks side by side, the online one and the one that follows it, "
        "which are no chain of stages"
    },
)
