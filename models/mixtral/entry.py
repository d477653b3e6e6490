"""What is Mixtral, before it is built? Sizes, counts, legal degrees and cuts; no torch.

Jiang et al., "Mixtral of Experts" (2024): Llama with, in place of each MLP, eight of which a token uses two.
"""

from dataclasses import dataclass

from ..entry import Entry, Shape, TensorPlan, Unit
from ..layers import shapes as of
from ..layers.shapes import size
from ..layers.sizes import rms_norm_bytes
from ..llama.entry import (
    ATTENTION,
    BETWEEN,
    ENDS,
    LlamaConfig,
    attention_bytes,
    attention_flops,
    attention_shapes,
    check,
    decoder_shapes,
    ends,
    paths,
    ties,
)


@dataclass(frozen=True)
class MixtralConfig(LlamaConfig):
    """Sizes of a Mixtral.

    Raises:
        ValueError: as LlamaConfig, or a token uses more experts than there are.
    """

    context: int = size(32768, "most tokens of one sample")
    kv_heads: int = size(8, "heads of keys and values, each shared by heads / kv_heads queries")
    hidden: int = size(14336, "numbers inside an expert")
    base: float = size(1000000.0, "of the rotations that tell places")
    epsilon: float = size(1e-5, "added to the mean square in a norm")
    experts: int = size(8, "MLPs of a block")
    choices: int = size(2, "experts that each token uses")
    balance: float = size(0.02, "weight of the router's imbalance in the loss")

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self, "experts", "choices")
        if self.choices > self.experts:
            raise ValueError(f"choices={self.choices} is more than experts={self.experts}")
        if self.balance < 0:
            raise ValueError(f"balance={self.balance} is negative")


PRESETS = {
    "tiny": MixtralConfig(
        vocab_size=256, context=128, width=128, layers=4, heads=4, kv_heads=2, hidden=128, experts=4, base=10000.0
    ),
    "8x7b": MixtralConfig(),
}


def shapes(config: MixtralConfig) -> dict[str, Shape]:
    """Every parameter of the Program."""
    width, inside = config.width, (config.experts, config.hidden, config.width)
    experts: of.Shapes = {"gate": inside, "up": inside, "down": (config.experts, config.width, config.hidden)}
    mixture = of.within(router=of.linear(width, config.experts, bias=False), experts=experts)
    norm = of.norm(width, bias=False)
    block = of.within(attention_norm=norm, attention=attention_shapes(config), mixture_norm=norm, mixture=mixture)
    return decoder_shapes(config, block)


def units(config: MixtralConfig) -> tuple[Unit, ...]:
    """Embedding, each block, head."""
    return of.units(shapes(config), paths(config))


def parameters(config: MixtralConfig) -> int:
    """Elements of all weights."""
    return of.elements(shapes(config))


def flops(config: MixtralConfig, tokens: int) -> float:
    """Forward FLOPs of one sample: 2 per weight that a token uses, and attention."""
    mixture = config.choices * 6.0 * config.width * config.hidden + 2.0 * config.width * config.experts
    block = attention_flops(config, tokens) + mixture
    return tokens * (config.layers * block + 2.0 * config.vocab_size * config.width)


def activations(config: MixtralConfig, samples: int, tokens: int, element: int) -> int:
    """Bytes that one block keeps for backward.

    Two norms, attention, the router's fp32 probabilities and, for each expert of a token: its input, four tensors as
    wide as the expert, its output put back in order, two places in the order and its fp32 share before and after.
    """
    expert = (2 * config.width + 4 * config.hidden) * element + 4 * 8 + 4 * 4
    token = 2 * rms_norm_bytes(config.width, element) + attention_bytes(config, element)
    return samples * tokens * (token + 4 * config.experts + config.choices * expert)


def boundary(config: MixtralConfig, samples: int, tokens: int) -> tuple[tuple[Shape, str], ...]:
    """The residual stream [B, T, width], and the load of the experts so far [2, E]."""
    return (((samples, tokens, config.width), "compute"), ((2, config.experts), "float32"))


def tensor(config: MixtralConfig) -> TensorPlan:
    """Heads, every expert's hidden layer and the vocabulary are split."""
    return TensorPlan(
        columns=ATTENTION,
        rows=("blocks.*.attention.output",),
        inputs=("blocks.*.attention",),
        own={"blocks.*.experts.gate": 1, "blocks.*.experts.up": 1, "blocks.*.experts.down": 2},
        vocabulary=ENDS,
        between=(*BETWEEN, "blocks.*.router.weight"),
    )


ENTRY = Entry(
    build="shardwright.models.mixtral.model:Mixtral",
    name="mixtral",
    paper="Jiang et al., Mixtral of Experts, 2024",
    config=MixtralConfig,
    presets=PRESETS,
    data="tokens",
    dataset="stdlib",
    parameters=parameters,
    shapes=shapes,
    flops=flops,
    activations=activations,
    ends=ends,
    units=units,
    boundary=boundary,
    tensor=tensor,
    divides={"tensor": ("kv_heads", "hidden"), "ulysses": "kv_heads", "expert": "experts"},
    context={"inputs": 1, "targets": 1},
    experts=("blocks.*.experts.*",),
    tied_by=ties,
    coupled="data",
    weights="shardwright.models.mixtral.weights:TRANSLATION",
)
