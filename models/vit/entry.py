"""What is a Vision Transformer, before it is built? Sizes, counts, legal degrees and cuts; no torch.

Dosovitskiy et al., "An Image is Worth 16x16 Words: Transformers for Image Recognition at Scale" (2020). B samples, N
tokens of a sample: its patches and the class token.
"""

from dataclasses import dataclass

from ..entry import Entry, Shape, TensorPlan, Unit
from ..layers.shapes import Shapes, check_heads, check_sizes, elements, encoder_block, linear, norm, size, within
from ..layers.shapes import units as units_of


@dataclass(frozen=True)
class VitConfig:
    """Sizes of a Vision Transformer.

    Raises:
        ValueError: a size is not positive, heads does not divide width, patch does not divide image, or dropout is no
            probability below 1.
    """

    image: int = size(224, "pixels of an image's side")
    patch: int = size(16, "pixels of a patch's side")
    channels: int = size(3, "colours of a pixel")
    classes: int = size(1000, "classes of an image")
    width: int = size(768, "numbers that stand for one patch between two blocks")
    layers: int = size(12, "blocks")
    heads: int = size(12, "attention heads of a block")
    hidden: int = size(3072, "width of the MLP's hidden layer")
    dropout: float = size(0.1, "of embeddings, hidden layers and residual branches")
    epsilon: float = size(1e-6, "added to the variance in layer norms")

    def __post_init__(self) -> None:
        check_sizes(self, "image", "patch", "channels", "classes", "width", "layers", "heads", "hidden")
        check_heads(self)
        if self.image % self.patch:
            raise ValueError(f"patch={self.patch} does not divide image={self.image}")

    @property
    def tokens(self) -> int:
        """Patches of an image, and the class token."""
        return (self.image // self.patch) ** 2 + 1


PRESETS = {
    "tiny": VitConfig(image=8, patch=2, channels=1, classes=10, width=64, layers=3, heads=4, hidden=128, dropout=0.0),
    "base_16": VitConfig(),
    "large_16": VitConfig(width=1024, layers=24, heads=16, hidden=4096),
}


def shapes(config: VitConfig) -> dict[str, Shape]:
    """Every parameter of the Program."""
    width, patch = config.width, (config.channels, config.patch, config.patch)
    embed: Shapes = {
        "token": (1, 1, width),
        "positions": (1, config.tokens, width),
        **within(patches={"weight": (width, *patch), "bias": (width,)}),
    }
    blocks = {str(layer): encoder_block(width, config.hidden) for layer in range(config.layers)}
    head = within(norm=norm(width), classes=linear(width, config.classes))
    return within(embed=embed, blocks=within(**blocks), head=head)


def units(config: VitConfig) -> tuple[Unit, ...]:
    """Patches, each block, head."""
    return units_of(shapes(config), ("embed", *(f"blocks.{layer}" for layer in range(config.layers)), "head"))


def parameters(config: VitConfig) -> int:
    """Elements of all weights."""
    return elements(shapes(config))


def flops(config: VitConfig, tokens: int = 0) -> float:
    """Forward FLOPs of one image: matrices, and attention over the N x N square. `tokens` follow from the config."""
    width, tokens = config.width, config.tokens
    block = tokens * (4 * width**2 + 2 * width * config.hidden + 2 * tokens * width)
    patches = (tokens - 1) * config.channels * config.patch**2 * width
    return 2.0 * (config.layers * block + patches + width * config.classes)


def activations(config: VitConfig, samples: int, tokens: int, element: int) -> int:
    """Bytes that one block keeps for backward.

    Per token: the block's input, two normed inputs, query, key, value, attention's output, the middle of the residual
    stream (8 widths), the MLP before and after GELU, two fp32 statistics of each norm, and attention's fp32 log-sum-exp
    of each head. With dropout each one keeps one byte an element, and the hidden layer is kept behind it alone.
    """
    token = (8 * config.width + 2 * config.hidden) * element + 4 * 4 + 4 * config.heads
    if config.dropout > 0.0:
        token += 2 * config.width + config.hidden
    return samples * config.tokens * token


def boundary(config: VitConfig, samples: int, tokens: int) -> tuple[tuple[Shape, str], ...]:
    """The residual stream [B, N, width]."""
    return (((samples, config.tokens, config.width), "compute"),)


def tensor(config: VitConfig) -> TensorPlan:
    """Heads and the MLP's hidden layer are split (Shoeybi et al., "Megatron-LM", 2019)."""
    columns = ("attention.query", "attention.key", "attention.value", "mlp.expand")
    return TensorPlan(
        columns=tuple(f"blocks.*.{name}" for name in columns),
        rows=("blocks.*.attention.output", "blocks.*.mlp.contract"),
        inputs=("blocks.*.attention", "blocks.*.mlp"),
    )


ENTRY = Entry(
    build="shardwright.models.vit.model:Vit",
    name="vit",
    paper="Dosovitskiy et al., An Image is Worth 16x16 Words: Transformers for Image Recognition at Scale, 2020",
    config=VitConfig,
    presets=PRESETS,
    data="samples",
    dataset="digits",
    parameters=parameters,
    shapes=shapes,
    flops=flops,
    activations=activations,
    units=units,
    boundary=boundary,
    tensor=tensor,
    divides={"tensor": ("heads", "hidden")},
    weights="shardwright.models.vit.weights:TRANSLATION",
)
