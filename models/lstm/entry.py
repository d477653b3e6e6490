"""What is an LSTM language model, before it is built? Sizes, counts, legal degrees, cuts and streams; no torch.

Hochreiter and Schmidhuber, "Long Short-Term Memory" (1997); stacked and regularised as in Zaremba, Sutskever and
Vinyals, "Recurrent Neural Network Regularization" (2014). B samples, T tokens of a sample.
"""

from dataclasses import dataclass

from ..entry import Boundary, Entry, Shape, Stream, TensorPlan, Unit
from ..layers import shapes as of
from ..layers.shapes import check_sizes, size
from ..layers.sizes import head_bytes


@dataclass(frozen=True)
class LSTMConfig:
    """Sizes of an LSTM language model.

    Raises:
        ValueError: a size is not positive, or dropout is no probability below 1.
    """

    vocab_size: int = size(10000, "tokens that can be told apart")
    width: int = size(650, "numbers that stand for one token, and units of each layer")
    layers: int = size(2, "recurrent layers")
    dropout: float = size(0.5, "of what goes from a layer to the next; never of what goes from a step to the next")
    within: float = size(0.05, "weights begin uniform between minus this and this")

    def __post_init__(self) -> None:
        check_sizes(self, "vocab_size", "width", "layers")
        if self.within <= 0.0:
            raise ValueError(f"within={self.within} is not positive")


PRESETS = {
    "tiny": LSTMConfig(vocab_size=256, width=64, dropout=0.1, within=0.2),
    "small": LSTMConfig(width=200, dropout=0.0, within=0.1),
    "medium": LSTMConfig(),
    "large": LSTMConfig(width=1500, dropout=0.65, within=0.04),
}


def layer(inputs: int, width: int) -> dict[str, Shape]:
    """Of one recurrent layer."""
    return {"input_weight": (width, 4, inputs), "hidden_weight": (width, 4, width), "bias": (width, 4)}


def shapes(config: LSTMConfig) -> dict[str, Shape]:
    """Every parameter of the Program; the projection's last column is its bias."""
    modules: dict[str, dict[str, Shape]] = {"embed.tokens": {"weight": (config.vocab_size, config.width)}}
    modules |= {f"layers.{index}.cell": layer(config.width, config.width) for index in range(config.layers)}
    return of.within(**modules, head={"weight": (config.vocab_size, config.width + 1)})


def parameters(config: LSTMConfig) -> int:
    """Elements of all weights."""
    return of.elements(shapes(config))


def units(config: LSTMConfig) -> tuple[Unit, ...]:
    """Embedding, each layer, projection."""
    return of.units(shapes(config), ["embed", *(f"layers.{index}" for index in range(config.layers)), "head"])


def flops(config: LSTMConfig, tokens: int) -> float:
    """Forward FLOPs of one sample: 2 per weight of a matrix and token."""
    return 2.0 * tokens * (8 * config.layers * config.width**2 + config.vocab_size * config.width)


def activations(config: LSTMConfig, samples: int, tokens: int, element: int) -> int:
    """Bytes that one layer keeps for backward: per token its input before and after dropout, the mask, 4 gates, the
    cell before and after its tanh, and the output.
    """
    return samples * tokens * config.width * (9 * element + (config.dropout > 0))


def ends(config: LSTMConfig, samples: int, tokens: int, element: int) -> tuple[int, int]:
    """Bytes that the projection and the loss keep for backward, and that the loss's backward needs more."""
    width = config.width + 1
    return head_bytes(config.vocab_size, width, samples * tokens, 2 * width * element)


def boundary(config: LSTMConfig, samples: int, tokens: int) -> Boundary:
    """The outputs [B, T, width] of the layer before."""
    return (((samples, tokens, config.width), "compute"),)


def streams(config: LSTMConfig) -> dict[str, Stream]:
    """Hidden and cell state of each layer, carried from a stretch of text to the next."""
    return {
        f"{state}.{index}": Stream((config.width,), unit=f"layers.{index}")
        for index in range(config.layers)
        for state in ("hidden", "cell")
    }


def tensor(config: LSTMConfig) -> TensorPlan:
    """Units of a layer are split, with all their gates."""
    names = ("input_weight", "hidden_weight", "bias")
    return TensorPlan(
        own={f"layers.*.cell.{name}": 0 for name in names}, vocabulary=("embed.tokens.weight", "head.weight")
    )


ENTRY = Entry(
    build="shardwright.models.lstm.model:LanguageModel",
    name="lstm",
    paper="Hochreiter and Schmidhuber, Long Short-Term Memory, 1997; "
    "Zaremba, Sutskever and Vinyals, Recurrent Neural Network Regularization, 2014",
    config=LSTMConfig,
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
    divides={"tensor": "width"},
    streams=streams,
)
