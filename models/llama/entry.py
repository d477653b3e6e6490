"""What is Llama, before it is built? Sizes, counts, legal degrees and cuts; no torch.

Touvron et al., "LLaMA: Open and Efficient Foundation Language Models" (2023); grouped queries and the sizes of 8b are
Llama 3's (Dubey et al. 2024). B samples, T tokens of a sample.
"""

from dataclasses import dataclass

from ..entry import Entry, Shape, TensorPlan, Ties, Unit
from ..layers import shapes as of
from ..layers.shapes import size
from ..layers.sizes import head_bytes, rms_norm_bytes


@dataclass(frozen=True)
class LlamaConfig:
    """Sizes of a Llama.

    Raises:
        ValueError: a size is not positive, heads does not divide width into even parts, or kv_heads does not divide
            heads.
    """

    vocab_size: int = size(32000, "tokens that can be told apart")
    context: int = size(2048, "most tokens of one sample")
    width: int = size(4096, "numbers that stand for one token between two blocks")
    layers: int = size(32, "blocks")
    heads: int = size(32, "attention heads of a block")
    kv_heads: int = size(32, "heads of keys and values, each shared by heads / kv_heads queries")
    hidden: int = size(11008, "numbers inside an MLP")
    base: float = size(10000.0, "of the rotations that tell places: the last pair of a head turns base times slower")
    epsilon: float = size(1e-6, "added to the mean square in a norm")
    tied: bool = size(False, "the last projection is the token embedding")

    def __post_init__(self) -> None:
        check(self, "vocab_size", "context", "width", "layers", "heads", "kv_heads", "hidden", "base", "epsilon")

    @property
    def head_width(self) -> int:
        """Numbers of one head."""
        return self.width // self.heads


def check(config: LlamaConfig, *positive: str) -> None:
    """Refuse sizes that are not positive and heads that do not fit.

    Raises:
        ValueError: one of them is wrong.
    """
    for name in positive:
        if getattr(config, name) <= 0:
            raise ValueError(f"{name}={getattr(config, name)} is not positive")
    if config.width % (2 * config.heads):
        raise ValueError(f"heads={config.heads} does not divide width={config.width} into even parts")
    if config.heads % config.kv_heads:
        raise ValueError(f"kv_heads={config.kv_heads} does not divide heads={config.heads}")


PRESETS = {
    "tiny": LlamaConfig(vocab_size=256, context=128, width=128, layers=4, heads=4, kv_heads=2, hidden=384),
    # 60m and 1b: Zhao et al. 2024, "GaLore"; 7b: Touvron et al. 2023; 8b: Dubey et al. 2024
    "60m": LlamaConfig(context=1024, width=512, layers=8, heads=8, kv_heads=8, hidden=1376),
    "1b": LlamaConfig(context=1024, width=2048, layers=24, hidden=5461),
    "7b": LlamaConfig(),
    "8b": LlamaConfig(vocab_size=128256, context=8192, kv_heads=8, hidden=14336, base=500000.0, epsilon=1e-5),
}


def attention_shapes(config: LlamaConfig) -> of.Shapes:
    """Parameters of one attention."""
    width, keys = config.width, config.kv_heads * config.head_width
    return of.within(
        query=of.linear(width, width, bias=False),
        key=of.linear(width, keys, bias=False),
        value=of.linear(width, keys, bias=False),
        output=of.linear(width, width, bias=False),
    )


def decoder_shapes(config: LlamaConfig, block: of.Shapes) -> dict[str, Shape]:
    """Every parameter of a Program whose blocks have these; a tied projection is the embedding."""
    found: dict[str, Shape] = {"embed.weight": (config.vocab_size, config.width)}
    found |= {f"blocks.{layer}.{name}": shape for layer in range(config.layers) for name, shape in block.items()}
    found |= {"head.norm.weight": (config.width,)}
    return found if config.tied else found | {"head.weight": (config.vocab_size, config.width)}


def shapes(config: LlamaConfig) -> dict[str, Shape]:
    """Every parameter of the Program."""
    width, hidden = config.width, config.hidden
    mlp = of.within(
        gate=of.linear(width, hidden, bias=False),
        up=of.linear(width, hidden, bias=False),
        down=of.linear(hidden, width, bias=False),
    )
    norm = of.norm(width, bias=False)
    block = of.within(attention_norm=norm, attention=attention_shapes(config), mlp_norm=norm, mlp=mlp)
    return decoder_shapes(config, block)


def paths(config: LlamaConfig) -> tuple[str, ...]:
    """Embedding, each block, head."""
    return ("embed", *(f"blocks.{layer}" for layer in range(config.layers)), "head")


def units(config: LlamaConfig) -> tuple[Unit, ...]:
    """Embedding, each block, head; a tied projection counts where it is first used."""
    return of.units(shapes(config), paths(config))


def parameters(config: LlamaConfig) -> int:
    """Elements of all weights."""
    return of.elements(shapes(config))


def attention_flops(config: LlamaConfig, tokens: int) -> float:
    """Forward FLOPs of one token in one attention, over the full T x T square (as PaLM's appendix B)."""
    keys = config.kv_heads * config.head_width
    return 2.0 * (2 * config.width**2 + 2 * config.width * keys + 2 * tokens * config.width)


def flops(config: LlamaConfig, tokens: int) -> float:
    """Forward FLOPs of one sample: 2 per weight of a matrix and token, and attention."""
    block = attention_flops(config, tokens) + 6.0 * config.width * config.hidden
    return tokens * (config.layers * block + 2.0 * config.vocab_size * config.width)


def attention_bytes(config: LlamaConfig, element: int) -> int:
    """Bytes of a token that attention keeps: queries, keys, values, output, and fp32 log-sum-exp of each head."""
    keys = config.kv_heads * config.head_width
    return (2 * config.width + 2 * keys) * element + 4 * config.heads


def activations(config: LlamaConfig, samples: int, tokens: int, element: int) -> int:
    """Bytes that one block keeps for backward: two norms, attention, and four tensors as wide as the MLP."""
    token = 2 * rms_norm_bytes(config.width, element) + attention_bytes(config, element) + 4 * config.hidden * element
    return samples * tokens * token


def ends(config: LlamaConfig, samples: int, tokens: int, element: int) -> tuple[int, int]:
    """Bytes that the head keeps for backward, and that the loss's backward needs more for a moment."""
    return head_bytes(config.vocab_size, config.width, samples * tokens, rms_norm_bytes(config.width, element))


def boundary(config: LlamaConfig, samples: int, tokens: int) -> tuple[tuple[Shape, str], ...]:
    """The residual stream [B, T, width]."""
    return (((samples, tokens, config.width), "compute"),)


ATTENTION = tuple(f"blocks.*.attention.{name}" for name in ("query", "key", "value"))
ENDS = ("embed.weight", "head.weight")
BETWEEN = ("*_norm.weight", "head.norm.weight")


def tensor(config: LlamaConfig) -> TensorPlan:
    """Heads, the MLP's hidden layer and the vocabulary are split (Shoeybi et al., "Megatron-LM", 2019)."""
    return TensorPlan(
        columns=(*ATTENTION, "blocks.*.mlp.gate", "blocks.*.mlp.up"),
        rows=("blocks.*.attention.output", "blocks.*.mlp.down"),
        inputs=("blocks.*.attention", "blocks.*.mlp"),
        vocabulary=ENDS,
        between=BETWEEN,
    )


def ties(config: LlamaConfig) -> Ties:
    """Embedding and projection, where the config says so."""
    return (ENDS,) if config.tied else ()


ENTRY = Entry(
    build="shardwright.models.llama.model:Llama",
    name="llama",
    paper="Touvron et al., LLaMA: Open and Efficient Foundation Language Models, 2023",
    config=LlamaConfig,
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
    divides={"tensor": ("kv_heads", "hidden"), "ulysses": "kv_heads"},
    context={"inputs": 1, "targets": 1},
    tied_by=ties,
    weights="shardwright.models.llama.weights:TRANSLATION",
)
