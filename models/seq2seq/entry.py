"""What is an attentive encoder-decoder, before it is built? Sizes, counts, legal degrees and cuts; no torch.

Bahdanau, Cho and Bengio, "Neural Machine Translation by Jointly Learning to Align and Translate" (2014, ICLR 2015).
B samples, T tokens of a sample.
"""

from dataclasses import dataclass

from ..entry import Boundary, Entry, Shape, TensorPlan, Unit
from ..layers import shapes as of
from ..layers.shapes import size


@dataclass(frozen=True)
class Seq2SeqConfig:
    """Sizes of an attentive encoder-decoder.

    Raises:
        ValueError: a size is not positive.
    """

    vocab_size: int = size(30000, "tokens that can be told apart")
    width: int = size(1000, "units of the decoder and of each direction of the encoder")
    embedding: int = size(620, "numbers that stand for one token")
    alignment: int = size(1000, "units that compare a state with an annotation")
    maxout: int = size(500, "units of the output layer, each the larger of two")

    def __post_init__(self) -> None:
        for name in ("vocab_size", "width", "embedding", "alignment", "maxout"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} is not positive")


PRESETS = {
    "tiny": Seq2SeqConfig(vocab_size=256, width=64, embedding=32, alignment=64, maxout=32),
    "rnnsearch": Seq2SeqConfig(),
}


def gru(inputs: int, width: int) -> dict[str, Shape]:
    """Of one recurrent layer."""
    return {
        "input_weight": (width, 3, inputs),
        "hidden_weight": (width, 3, width),
        "bias": (width, 3),
        "reset_bias": (width,),
    }


def shapes(config: Seq2SeqConfig) -> dict[str, Shape]:
    """Every parameter of the Program; the target's embedding has a row more, for the beginning."""
    width, embedding = config.width, config.embedding
    return of.within(
        encoder=of.within(
            embed={"weight": (config.vocab_size, embedding)},
            forwards=gru(embedding, width),
            backwards=gru(embedding, width),
            begin=of.linear(width, width),
        ),
        decoder=of.within(
            embed={"weight": (config.vocab_size + 1, embedding)},
            attention={
                "state": (config.alignment, width),
                "annotation": (config.alignment, 2 * width),
                "score": (config.alignment,),
            },
            cell=gru(embedding + 2 * width, width),
            maxout=of.linear(width + embedding + 2 * width, 2 * config.maxout),
            output=of.linear(config.maxout, config.vocab_size),
        ),
    )


def parameters(config: Seq2SeqConfig) -> int:
    """Elements of all weights."""
    return of.elements(shapes(config))


def units(config: Seq2SeqConfig) -> tuple[Unit, ...]:
    """Encoder and decoder: between two steps of either, nothing can be cut."""
    return of.units(shapes(config), ["encoder", "decoder"])


def flops(config: Seq2SeqConfig, tokens: int) -> float:
    """Forward FLOPs of one sample: 2 per weight of a matrix and token, and the T x T comparisons of attention."""
    encoder = 6 * config.width * (config.embedding + config.width) + 2 * config.width * config.alignment
    decoder = 3 * config.width * (config.embedding + 3 * config.width) + config.width * config.alignment
    output = 2 * config.maxout * (3 * config.width + config.embedding) + config.maxout * config.vocab_size
    attention = tokens * (config.alignment + 2 * config.width)
    return 2.0 * tokens * (encoder + decoder + output + attention)


def boundary(config: Seq2SeqConfig, samples: int, tokens: int) -> Boundary:
    """The annotations [B, T, 2 width] and the decoder's first state [B, width]."""
    return (((samples, tokens, 2 * config.width), "compute"), ((samples, config.width), "compute"))


def tensor(config: Seq2SeqConfig) -> TensorPlan:
    """Units of the recurrent layers, of the alignment and of the output layer are split."""
    cells, kinds = ("encoder.*wards", "decoder.cell"), ("input_weight", "hidden_weight", "bias", "reset_bias")
    return TensorPlan(
        columns=("decoder.maxout",),
        rows=("decoder.output",),
        own={**{f"{cell}.{kind}": 0 for cell in cells for kind in kinds}, "decoder.attention.*": 0},
    )


ENTRY = Entry(
    build="shardwright.models.seq2seq.model:Seq2Seq",
    name="seq2seq",
    paper="Bahdanau, Cho and Bengio, Neural Machine Translation by Jointly Learning to Align and Translate, 2014",
    config=Seq2SeqConfig,
    presets=PRESETS,
    data="tokens",
    dataset="stdlib",
    parameters=parameters,
    shapes=shapes,
    flops=flops,
    units=units,
    boundary=boundary,
    tensor=tensor,
    divides={"tensor": ("width", "alignment", "maxout")},
)
