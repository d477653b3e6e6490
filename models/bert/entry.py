"""What is BERT, before it is built? Sizes, counts, legal degrees and cuts; no torch.

Devlin et al., "BERT: Pre-training of Deep Bidirectional Transformers for Language Understanding" (2018). B samples, T
tokens of a sample.
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


@dataclass(frozen=True)
class BertConfig:
    """Sizes of a BERT, and the ids of its special tokens.

    Raises:
        ValueError: a size is not positive, heads does not divide width, an id is not in the vocabulary, or dropout is
            no probability below 1.
    """

    vocab_size: int = size(30522, "tokens that can be told apart, the special ones among them")
    context: int = size(512, "most tokens of one sample")
    width: int = size(768, "numbers that stand for one token between two blocks")
    layers: int = size(12, "blocks")
    heads: int = size(12, "attention heads of a block")
    hidden: int = size(3072, "width of the MLP's hidden layer")
    dropout: float = size(0.1, "of embeddings, attention probabilities and residual branches")
    cls: int = size(101, "id that begins a sample; its vector tells whether two sentences belong together")
    sep: int = size(102, "id that ends a sentence")
    mask: int = size(103, "id in the place of a token to guess")

    def __post_init__(self) -> None:
        check_sizes(self, "vocab_size", "context", "width", "layers", "heads", "hidden")
        check_heads(self)
        check_ids(self, "cls", "sep", "mask")


PRESETS = {
    "tiny": BertConfig(260, 128, width=64, layers=2, heads=4, hidden=128, dropout=0.0, cls=256, sep=257, mask=258),
    "base": BertConfig(),
    "large": BertConfig(width=1024, layers=24, heads=16, hidden=4096),
}  # fmt: skip


def shapes(config: BertConfig) -> dict[str, Shape]:
    """Every parameter of the Program; the projection to the vocabulary is the token embedding."""
    width = config.width
    tables: Shapes = {
        "tokens": (config.vocab_size, width),
        "positions": (config.context, width),
        "segments": (2, width),
    }
    embed = within(**{name: {"weight": shape} for name, shape in tables.items()}, norm=norm(width))
    tokens: Shapes = {**within(dense=linear(width, width), norm=norm(width)), "bias": (config.vocab_size,)}
    blocks = {str(layer): encoder_block(width, config.hidden) for layer in range(config.layers)}
    head = within(tokens=tokens, pool=linear(width, width), next=linear(width, 2))
    return within(embed=embed, blocks=within(**blocks), head=head)


def units(config: BertConfig) -> tuple[Unit, ...]:
    """Embeddings, each block, heads."""
    return units_of(shapes(config), ("embed", *(f"blocks.{layer}" for layer in range(config.layers)), "head"))


def parameters(config: BertConfig) -> int:
    """Elements of all weights, the tied one once."""
    return elements(shapes(config))


def flops(config: BertConfig, tokens: int) -> float:
    """Forward FLOPs of one sample: matrices, attention, and the projection of the 15 % of tokens to guess."""
    width, guessed = config.width, 0.15 * tokens
    block = tokens * (4 * width**2 + 2 * width * config.hidden + 2 * tokens * width)
    heads = guessed * (width**2 + config.vocab_size * width) + width**2 + 2 * width
    return 2.0 * (config.layers * block + heads)


def activations(config: BertConfig, samples: int, tokens: int, element: int) -> int:
    """Bytes that one block keeps for backward.

    Per token: the block's input, query, key, value, attention's output, input and output of the first norm, input of
    the second (8 widths), the MLP before and after GELU, two fp32 statistics of each norm, and attention's fp32
    log-sum-exp of each head. With dropout, attention keeps its probabilities before and after dropping (instead of its
    output and log-sum-exp) and each dropout one byte an element.
    """
    token = (8 * config.width + 2 * config.hidden) * element + 4 * 4
    if config.dropout == 0.0:
        return samples * tokens * (token + 4 * config.heads)
    square = config.heads * tokens * (2 * element + 1)
    return samples * tokens * (token + 2 * config.width + square)


def boundary(config: BertConfig, samples: int, tokens: int) -> tuple[tuple[Shape, str], ...]:
    """The residual stream [B, T, width]."""
    return (((samples, tokens, config.width), "compute"),)


def tensor(config: BertConfig) -> TensorPlan:
    """Heads and the MLP's hidden layer are split (Shoeybi et al., "Megatron-LM", 2019)."""
    columns = ("attention.query", "attention.key", "attention.value", "mlp.expand")
    return TensorPlan(
        columns=tuple(f"blocks.*.{name}" for name in columns),
        rows=("blocks.*.attention.output", "blocks.*.mlp.contract"),
        inputs=("blocks.*.attention", "blocks.*.mlp"),
    )


ENTRY = Entry(
    build="shardwright.models.bert.model:Bert",
    name="bert",
    paper="Devlin et al., BERT: Pre-training of Deep Bidirectional Transformers for Language Understanding, 2018",
    config=BertConfig,
    presets=PRESETS,
    data="tokens",
    dataset="stdlib",
    continues=False,
    parameters=parameters,
    shapes=shapes,
    flops=flops,
    activations=activations,
    units=units,
    boundary=boundary,
    tensor=tensor,
    divides={"tensor": ("heads", "hidden")},
    tied=(("embed.tokens.weight", "head.tokens.weight"),),
    objective={"mlm": 1.0, "nsp": 1.0},
    counts="shardwright.models.bert.pretraining:counts",
    weights="shardwright.models.bert.weights:TRANSLATION",
)
