"""What is Longformer, before it is built? Sizes, counts, legal degrees and cuts; no torch.

Beltagy et al., "Longformer: The Long-Document Transformer" (2020). B samples, T tokens of a sample.
"""

from dataclasses import dataclass

from ..entry import Entry, Shape, TensorPlan, Unit
from ..layers.shapes import (
    Shapes,
    check_heads,
    check_ids,
    check_sizes,
    elements,
    encoder_block,
    linear,
    norm,
    size,
    within,
)
from ..layers.shapes import units as units_of

PROJECTIONS = ("query", "key", "value", "global_query", "global_key", "global_value")
RESERVED = 2  # first rows of the table of positions, which RoBERTa, whose weights Longformer begins with, keeps free


@dataclass(frozen=True)
class LongformerConfig:
    """Sizes of a Longformer, and the ids of its special tokens.

    Raises:
        ValueError: a size is not positive, the window is odd, heads does not divide width, an id is not in the
            vocabulary, or dropout is no probability below 1.
    """

    vocab_size: int = size(50265, "tokens that can be told apart, the special ones among them")
    context: int = size(4096, "most tokens of one sample")
    width: int = size(768, "numbers that stand for one token between two blocks")
    layers: int = size(12, "blocks")
    heads: int = size(12, "attention heads of a block")
    hidden: int = size(3072, "width of the MLP's hidden layer")
    window: int = size(512, "tokens that one attends to beside itself, half before it, half behind it")
    leading: int = size(1, "first tokens of a sample, which attend to all and which all attend to")
    dropout: float = size(0.1, "of embeddings, attention probabilities and residual branches")
    start: int = size(0, "id that begins a sample")
    end: int = size(2, "id that ends it")
    mask: int = size(50264, "id in the place of a token to guess")

    def __post_init__(self) -> None:
        check_sizes(self, "vocab_size", "context", "width", "layers", "heads", "hidden", "window", "leading")
        check_heads(self)
        check_ids(self, "start", "end", "mask")
        if self.window % 2:
            raise ValueError(f"window={self.window} is odd; half of it lies before a token, half behind")


PRESETS = {
    "tiny": LongformerConfig(
        vocab_size=260,
        context=256,
        width=64,
        layers=2,
        heads=4,
        hidden=128,
        window=16,
        dropout=0.0,
        start=256,
        end=257,
        mask=258,
    ),
    "base": LongformerConfig(),
}


def shapes(config: LongformerConfig) -> dict[str, Shape]:
    """Every parameter of the Program; the projection to the vocabulary is the token embedding."""
    width = config.width
    tables: Shapes = {
        "tokens.weight": (config.vocab_size, width),
        "positions.weight": (config.context + RESERVED, width),
        "segment": (1, width),
    }
    tokens: Shapes = {**within(dense=linear(width, width), norm=norm(width)), "bias": (config.vocab_size,)}
    block = encoder_block(width, config.hidden, (*PROJECTIONS, "output"))
    blocks = within(**{str(layer): block for layer in range(config.layers)})
    return within(embed=tables | within(norm=norm(width)), blocks=blocks, head=tokens)


def units(config: LongformerConfig) -> tuple[Unit, ...]:
    """Embeddings, each block, head."""
    return units_of(shapes(config), ("embed", *(f"blocks.{layer}" for layer in range(config.layers)), "head"))


def parameters(config: LongformerConfig) -> int:
    """Elements of all weights, the tied one once."""
    return elements(shapes(config))


def flops(config: LongformerConfig, tokens: int) -> float:
    """Forward FLOPs of one sample: it grows with T times the window.

    A block of half a window of tokens scores three such blocks; the leading tokens are scored by all, and score all.
    """
    width, leading, half = config.width, config.leading, config.window // 2
    rows = -(-tokens // half) * half  # whole blocks
    matrices = tokens * (6 * width**2 + 2 * width * config.hidden) + leading * width**2
    band = 2 * rows * (3 * half + leading) * width
    heads = 0.15 * tokens * (width**2 + config.vocab_size * width)
    return 2.0 * (config.layers * (matrices + band + 2 * leading * tokens * width) + heads)


def boundary(config: LongformerConfig, samples: int, tokens: int) -> tuple[tuple[Shape, str], ...]:
    """The residual stream [B, T, width]."""
    return (((samples, tokens, config.width), "compute"),)


def tensor(config: LongformerConfig) -> TensorPlan:
    """Heads and the MLP's hidden layer are split (Shoeybi et al., "Megatron-LM", 2019)."""
    return TensorPlan(
        columns=(*(f"blocks.*.attention.{name}" for name in PROJECTIONS), "blocks.*.mlp.expand"),
        rows=("blocks.*.attention.output", "blocks.*.mlp.contract"),
        inputs=("blocks.*.attention", "blocks.*.mlp"),
    )


ENTRY = Entry(
    build="shardwright.models.longformer.model:Longformer",
    name="longformer",
    paper="Beltagy et al., Longformer: The Long-Document Transformer, 2020",
    config=LongformerConfig,
    presets=PRESETS,
    data="tokens",
    dataset="stdlib",
    continues=False,
    parameters=parameters,
    shapes=shapes,
    flops=flops,
    units=units,
    boundary=boundary,
    tensor=tensor,
    divides={"tensor": ("heads", "hidden")},
    tied=(("embed.tokens.weight", "head.weight"),),
    weights="shardwright.models.longformer.weights:TRANSLATION",
)
