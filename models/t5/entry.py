"""What is T5, before it is built? Sizes, counts, legal degrees and cuts; no torch.

Raffel et al., "Exploring the Limits of Transfer Learning with a Unified Text-to-Text Transformer" (2019); version 1.1
(gated GELU, a projection of its own) after Shazeer, "GLU Variants Improve Transformer" (2020).

B samples, T tokens of a sample's text, S of the corrupted text that the encoder reads, U of what was taken out.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

from ..entry import Boundary, Entry, Shape, TensorPlan, Ties, Unit
from ..layers.shapes import Shapes, check_ids, check_sizes, elements, linear, norm, size, within
from ..layers.shapes import units as units_of


class Lengths(NamedTuple):
    """What span corruption makes of a sample, whatever it draws."""

    noise: int  # tokens that are taken out
    spans: int  # in so many spans
    inputs: int  # tokens that the encoder reads: what is left, a sentinel for each span, the end
    targets: int  # tokens that the decoder writes: each span behind its sentinel, the end


@dataclass(frozen=True)
class T5Config:
    """Sizes of a T5, the ids of its special tokens, and how text is corrupted.

    Raises:
        ValueError: a size is not positive, an id is not in the vocabulary, dropout is no probability below 1, or there
            are too few sentinels for a sample of `context` tokens.
    """

    vocab_size: int = size(32128, "tokens that can be told apart, the special ones among them")
    context: int = size(
        568, "most tokens of one sample's text; of 568 the encoder reads 512 and the decoder writes 114"
    )
    width: int = size(512, "numbers that stand for one token between two blocks")
    layers: int = size(6, "blocks of the encoder, and as many of the decoder")
    heads: int = size(8, "attention heads of a block")
    head_width: int = size(64, "numbers of one head")
    hidden: int = size(2048, "width of the MLP's hidden layer")
    buckets: int = size(32, "distances between two tokens that are told apart")
    reach: int = size(128, "distance from which on all are one")
    activation: Literal["relu", "gated-gelu"] = size("relu", "of the hidden layer: relu (1.0) or gated-gelu (1.1)")
    tied: bool = size(
        True, "the projection to the vocabulary is the token embedding (1.0), or a matrix of its own (1.1)"
    )
    dropout: float = size(0.1, "of embeddings, attention probabilities, hidden layers and residual branches")
    start: int = size(0, "id that the decoder begins with")
    end: int = size(1, "id that ends a text")
    sentinel: int = size(32099, "id of the first sentinel; the others count down from it")
    sentinels: int = size(100, "how many there are")
    density: float = size(0.15, "share of the tokens that is taken out")
    span: float = size(3.0, "tokens of a span, on average")

    def __post_init__(self) -> None:
        check_sizes(self, "vocab_size", "context", "width", "layers", "heads", "head_width", "hidden", "sentinels")
        check_ids(self, "start", "end", "sentinel")
        if self.buckets < 4 or self.buckets % 4 or self.reach <= self.buckets // 2:
            raise ValueError(
                f"buckets={self.buckets}, reach={self.reach}: expected a multiple of 4, and a reach above half of it"
            )
        if not 0.0 < self.density < 1.0 or self.span < 1.0:
            raise ValueError(f"density={self.density} must lie between 0 and 1, and span={self.span} be 1 or more")
        if (needed := lengths(self, self.context).spans) > self.sentinels or self.sentinels > self.sentinel + 1:
            raise ValueError(
                f"sentinels={self.sentinels} from sentinel={self.sentinel} downwards: context={self.context} tokens "
                f"need {needed}, and no id is below 0"
            )


def lengths(config: T5Config, tokens: int) -> Lengths:
    """Lengths that follow from those of the text (the paper's section 3.1.4, and its own code for the rounding)."""
    noise = min(max(round(tokens * config.density), 1), tokens - 1)
    spans = min(max(round(noise / config.span), 1), noise, tokens - noise)
    return Lengths(noise, spans, tokens - noise + spans + 1, noise + spans + 1)


PRESETS = {
    "tiny": T5Config(
        vocab_size=288,
        context=128,
        width=64,
        layers=2,
        heads=4,
        head_width=16,
        hidden=128,
        dropout=0.0,
        start=256,
        end=257,
        sentinel=287,
        sentinels=30,
    ),
    "small": T5Config(),
    "base": T5Config(width=768, layers=12, heads=12, hidden=3072),
    "v1_1_small": T5Config(layers=8, heads=6, hidden=1024, activation="gated-gelu", tied=False),
    "v1_1_base": T5Config(width=768, layers=12, heads=12, hidden=2048, activation="gated-gelu", tied=False),
}


def shapes(config: T5Config) -> dict[str, Shape]:
    """Every parameter of the Program; a tied projection is the token embedding."""
    width, inner = config.width, config.heads * config.head_width
    words: Shapes = {"weight": (config.vocab_size, width)}
    tables: Shapes = {"near.weight": (config.buckets, config.heads), "far.weight": (config.buckets, config.heads)}
    attention = within(
        **{name: linear(width, inner, bias=False) for name in ("query", "key", "value")},
        output=linear(inner, width, bias=False),
    )
    wide = ("expand",) if config.activation == "relu" else ("gate", "expand")
    mlp = within(
        **{name: linear(width, config.hidden, bias=False) for name in wide},
        contract=linear(config.hidden, width, bias=False),
    )
    scale = norm(width, bias=False)
    encoder = within(attention_norm=scale, attention=attention, mlp_norm=scale, mlp=mlp)
    decoder = encoder | within(memory_norm=scale, memory=attention)
    layers = [str(layer) for layer in range(config.layers)]
    return within(
        embed=within(tokens=words) | tables,
        encoder=within(**dict.fromkeys(layers, encoder)),
        memory=within(norm=scale),
        decoder=within(**dict.fromkeys(layers, decoder)),
        head=within(norm=scale) | ({} if config.tied else words),
    )


def paths(config: T5Config) -> tuple[str, ...]:
    """The units: embeddings of both texts, the encoder's blocks, its end, the decoder's blocks, the head."""
    stacks = [[f"{stack}.{layer}" for layer in range(config.layers)] for stack in ("encoder", "decoder")]
    return ("embed", *stacks[0], "memory", *stacks[1], "head")


def units(config: T5Config) -> tuple[Unit, ...]:
    """The units, with the parameters that they own."""
    return units_of(shapes(config), paths(config))


def parameters(config: T5Config) -> int:
    """Elements of all weights, the tied one once."""
    return elements(shapes(config))


def flops(config: T5Config, tokens: int) -> float:
    """Forward FLOPs of one sample: matrices, and attention over the S x S, U x U and U x S squares."""
    _, _, read, written = lengths(config, tokens)
    inner, matrices = config.heads * config.head_width, 2 if config.activation == "relu" else 3
    mlp = matrices * config.width * config.hidden
    own = 4 * config.width * inner + mlp
    encoder = read * own + 2 * read**2 * inner
    across = 2 * (written + read) * config.width * inner + 2 * written * read * inner
    decoder = written * own + 2 * written**2 * inner + across
    return 2.0 * (config.layers * (encoder + decoder) + written * config.width * config.vocab_size)


def boundary(config: T5Config, samples: int, tokens: int) -> dict[int, Boundary]:
    """Both residual streams [B, S, C] and [B, U, C], and the tables of relative positions [buckets, heads] of the
    stacks that are still to come; before the head the decoder's stream alone.
    """
    _, _, read, written = lengths(config, tokens)
    encoder: tuple[Shape, str] = (samples, read, config.width), "compute"
    decoder: tuple[Shape, str] = (samples, written, config.width), "compute"
    table: tuple[Shape, str] = (config.buckets, config.heads), "compute"
    found: dict[int, Boundary] = {}
    for index, path in enumerate(paths(config)):
        tables = (table, table) if path.startswith("encoder") else (table,)
        found[index] = (decoder,) if path == "head" else (encoder, decoder, *tables)
    return found


def tensor(config: T5Config) -> TensorPlan:
    """Heads and the MLP's hidden layer are split (Shoeybi et al., "Megatron-LM", 2019)."""
    attentions = ("encoder.*.attention", "decoder.*.attention", "decoder.*.memory")
    mlps = ("encoder.*.mlp", "decoder.*.mlp")
    wide = ("expand",) if config.activation == "relu" else ("gate", "expand")
    return TensorPlan(
        columns=(
            *(f"{path}.{name}" for path in attentions for name in ("query", "key", "value")),
            *(f"{path}.{name}" for path in mlps for name in wide),
        ),
        rows=(*(f"{path}.output" for path in attentions), *(f"{path}.contract" for path in mlps)),
        inputs=(*attentions, *mlps),
    )


def tied(config: T5Config) -> Ties:
    """The projection to the vocabulary, in version 1.0."""
    return (("embed.tokens.weight", "head.weight"),) if config.tied else ()


ENTRY = Entry(
    build="shardwright.models.t5.model:T5",
    name="t5",
    paper="Raffel et al., Exploring the Limits of Transfer Learning with a Unified Text-to-Text Transformer, 2019",
    config=T5Config,
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
    tied_by=tied,
    weights="shardwright.models.t5.weights:TRANSLATION",
)
