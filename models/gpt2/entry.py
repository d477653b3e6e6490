"""What is GPT-2, before it is built? Sizes, counts, legal degrees and cuts; no torch.

Radford et al., "Language Models are Unsupervised Multitask Learners" (2019). B samples, T tokens of a sample.
"""

from dataclasses import dataclass, field
from typing import Any

from ..entry import Entry, Shape, TensorPlan, Unit
from ..layers.sizes import head_bytes


def size(default: Any, help: str) -> Any:
    """A field of the config with its help text."""
    return field(default=default, metadata={"help": help})


@dataclass(frozen=True)
class GPT2Config:
    """Sizes of a GPT-2.

    Raises:
        ValueError: a size is not positive, heads does not divide width, or dropout is no probability below 1.
    """

    vocab_size: int = size(50257, "tokens that can be told apart")
    context: int = size(1024, "most tokens of one sample")
    width: int = size(768, "numbers that stand for one token between two blocks")
    layers: int = size(12, "blocks")
    heads: int = size(12, "attention heads of a block")
    dropout: float = size(0.1, "of embeddings, attention probabilities and residual branches")

    def __post_init__(self) -> None:
        for name in ("vocab_size", "context", "width", "layers", "heads"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} is not positive")
        if self.width % self.heads:
            raise ValueError(f"heads={self.heads} does not divide width={self.width}")
        if not 0.0 <= self.dropout < 1.0:
            raise ValueError(f"dropout={self.dropout} is not in [0, 1)")


PRESETS = {
    "tiny": GPT2Config(vocab_size=256, context=128, width=128, layers=4, heads=4, dropout=0.0),
    "small": GPT2Config(),
    "medium": GPT2Config(width=1024, layers=24, heads=16),
    "large": GPT2Config(width=1280, layers=36, heads=20),
    "xl": GPT2Config(width=1600, layers=48, heads=25),
}


def units(config: GPT2Config) -> tuple[Unit, ...]:
    """Embeddings, each block, head. The head's projection is the token embedding and counts there."""
    block = 12 * config.width**2 + 13 * config.width
    return (
        Unit("embed", (config.vocab_size + config.context) * config.width),
        *(Unit(f"blocks.{layer}", block) for layer in range(config.layers)),
        Unit("head", 2 * config.width),
    )


def parameters(config: GPT2Config) -> int:
    """Elements of all weights, the tied one once."""
    return sum(unit.parameters for unit in units(config))


def shapes(config: GPT2Config) -> dict[str, Shape]:
    """Every parameter of the Program; the projection's weight is the token embedding."""
    width = config.width
    linears = {f"attention.{name}": (width, width) for name in ("query", "key", "value", "output")}
    linears |= {"mlp.expand": (4 * width, width), "mlp.contract": (width, 4 * width)}
    block: dict[str, Shape] = {
        f"{name}.{kind}": (width,) for name in ("attention_norm", "mlp_norm") for kind in ("weight", "bias")
    }
    for name, shape in linears.items():
        block |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    return {
        "embed.tokens.weight": (config.vocab_size, width),
        "embed.positions.weight": (config.context, width),
        **{f"blocks.{layer}.{name}": shape for layer in range(config.layers) for name, shape in block.items()},
        "head.norm.weight": (width,),
        "head.norm.bias": (width,),
    }


def flops(config: GPT2Config, tokens: int) -> float:
    """Forward FLOPs of one sample: 2 per weight of a matrix and token, and attention over the full T x T square.

    That causal attention needs only half of the square is not used, as in PaLM's appendix B (Chowdhery et al. 2022).
    """
    block = 12 * config.width**2 + 2 * tokens * config.width
    return 2.0 * tokens * (config.layers * block + config.vocab_size * config.width)


def activations(config: GPT2Config, samples: int, tokens: int, element: int) -> int:
    """Bytes that one block keeps for backward.

    Per token: the block's input, two normed inputs, query, key, value, attention's output, the middle of the residual
    stream (8 widths), the MLP before and after GELU (8 widths), two fp32 statistics of each layer norm, and attention's
    fp32 log-sum-exp of each head. With dropout, attention keeps its probabilities before and after dropping (instead
    of its output and log-sum-exp) and each dropout one byte an element, beside the causal mask.
    """
    token = 16 * config.width * element + 4 * 4
    if config.dropout == 0.0:
        return samples * tokens * (token + 4 * config.heads)
    square = config.heads * tokens * (2 * element + 1)
    return samples * tokens * (token + 2 * config.width + square) + tokens * tokens


def ends(config: GPT2Config, samples: int, tokens: int, element: int) -> tuple[int, int]:
    """Bytes that the head keeps for backward, and that the loss's backward needs more for a moment.

    Layer norm keeps its input, its output and two fp32 statistics.
    """
    return head_bytes(config.vocab_size, config.width, samples * tokens, 2 * config.width * element + 2 * 4)


def boundary(config: GPT2Config, samples: int, tokens: int) -> tuple[tuple[Shape, str], ...]:
    """The residual stream [B, T, width]."""
    return (((samples, tokens, config.width), "compute"),)


def tensor(config: GPT2Config) -> TensorPlan:
    """Heads, the MLP's hidden layer and the vocabulary are split (Shoeybi et al., "Megatron-LM", 2019)."""
    return TensorPlan(
        columns=(
            "blocks.*.attention.query",
            "blocks.*.attention.key",
            "blocks.*.attention.value",
            "blocks.*.mlp.expand",
        ),
        rows=("blocks.*.attention.output", "blocks.*.mlp.contract"),
        inputs=("blocks.*.attention", "blocks.*.mlp"),
        vocabulary=("embed.tokens.weight", "head.weight"),
        between=("embed.positions.weight", "*_norm.*", "head.norm.*"),
    )


ENTRY = Entry(
    build="shardwright.models.gpt2.model:GPT2",
    name="gpt2",
    paper="Radford et al., Language Models are Unsupervised Multitask Learners, 2019",
    config=GPT2Config,
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
    divides={"tensor": "heads", "ulysses": "heads"},
    context={"inputs": 1, "targets": 1},
    tied=(("embed.tokens.weight", "head.weight"),),
    weights="shardwright.models.gpt2.weights:TRANSLATION",
)
