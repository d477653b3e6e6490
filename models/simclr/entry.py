"""What is SimCLR, before it is built? Sizes, counts and legal degrees; no torch.

Chen, Kornblith, Norouzi and Hinton, "A Simple Framework for Contrastive Learning of Visual Representations" (2020).
"""

from dataclasses import dataclass

from ..entry import Entry, Shape, TensorPlan, Unit
from ..layers import shapes as of
from ..layers.shapes import size
from ..layers.view_sizes import ViewSizes
from ..resnet18.entry import FeatureSizes, feature_flops, feature_plan, feature_shapes, feature_units


@dataclass(frozen=True)
class SimCLRConfig(FeatureSizes, ViewSizes):
    """Sizes of the encoder, of what is compared, and of the views.

    Raises:
        ValueError: a size is not positive, the temperature neither, or a strength of the views is outside its range.
    """

    hidden: int = size(512, "numbers of the projection's hidden layer")
    embedding: int = size(128, "numbers of an embedding")
    temperature: float = size(0.5, "that similarities are divided by")

    def __post_init__(self) -> None:
        FeatureSizes.__post_init__(self)
        ViewSizes.__post_init__(self)
        for name in ("hidden", "embedding", "temperature"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name}={getattr(self, name)} is not positive")


PRESETS = {
    "tiny": SimCLRConfig(
        width=8,
        blocks=(1, 1, 1),
        strides=(1, 2, 2),
        stem="small",
        channels=1,
        image=8,
        hidden=64,
        embedding=32,
        crop=0.5,
        turn=15.0,
        flip=0.0,
        jitter=0.5,
        noise=0.1,
    ),
    "imagenet": SimCLRConfig(temperature=0.1),
    "cifar10": SimCLRConfig(stem="small", image=32, jitter=0.5),
}


def shapes(config: SimCLRConfig) -> dict[str, Shape]:
    """Every parameter of the Program."""
    projection = of.within(
        expand=of.linear(config.features, config.hidden), contract=of.linear(config.hidden, config.embedding)
    )
    return of.within(encoder=feature_shapes(config), projection=projection)


def parameters(config: SimCLRConfig) -> int:
    """Elements of all weights."""
    return of.elements(shapes(config))


def units(config: SimCLRConfig) -> tuple[Unit, ...]:
    """The encoder's stem and blocks, and the projection."""
    return of.units(shapes(config), [*(f"encoder.{path}" for path in feature_units(config)), "projection"])


def flops(config: SimCLRConfig, tokens: int) -> float:
    """Forward FLOPs of one sample, which is seen twice; without the comparison, which grows with the batch."""
    return 2.0 * (feature_flops(config) + 2.0 * config.hidden * (config.features + config.embedding))


def tensor(config: SimCLRConfig) -> TensorPlan:
    """The channels within each block and the projection's hidden layer are split."""
    encoder = feature_plan("encoder.")
    return TensorPlan(
        columns=(*encoder.columns, "projection.expand"), rows=(*encoder.rows, "projection.contract"), own=encoder.own
    )


ENTRY = Entry(
    build="shardwright.models.simclr.model:SimCLR",
    name="simclr",
    paper="Chen, Kornblith, Norouzi and Hinton, A Simple Framework for Contrastive Learning of Visual "
    "Representations, 2020",
    config=SimCLRConfig,
    presets=PRESETS,
    dataset="digits",
    parameters=parameters,
    shapes=shapes,
    flops=flops,
    units=units,
    tensor=tensor,
    divides={"tensor": ("width", "hidden")},
    coupled="batch",
    refusals={
        "pipeline": "each embedding is compared with those of the whole batch, so a batch is one micro-batch "
        "and stages would wait for each other"
    },
)
