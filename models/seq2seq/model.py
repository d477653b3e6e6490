"""What does an attentive encoder-decoder compute? It reads a text, and writes it from the end to the beginning.

Bahdanau, Cho and Bengio (2014), with its appendix A for the decoder's first state and the maxout layer; the recurrent
cells apply the reset gate behind the hidden weight, as torch's do. The task is made from any text: the target is the
source reversed, for which attention has to find, for each token that is written, the one place where it was read.
Training is by teacher forcing: the decoder reads the target's token before. B samples, T tokens, H units, E numbers of
a token, A alignment units (a of this rank), M maxout units, V vocabulary.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..axes import ALONE, Axes, local
from ..layers.collectives import enter, gather, join, leave, part
from ..layers.recurrent import GRU
from ..layers.split_cross_entropy import IGNORED
from .entry import Seq2SeqConfig

Terms = dict[str, tuple[Tensor, Tensor]]


class Seq2Seq(nn.Module):
    """The Program: a batch to the sum of its target tokens' losses. A pipeline stage sets one of the two to None."""

    def __init__(self, config: Seq2SeqConfig) -> None:
        super().__init__()
        self.encoder: Encoder | None = Encoder(config)
        self.decoder: Decoder | None = Decoder(config)

    def forward(self, batch: Mapping[str, Tensor], *state: Tensor) -> Terms | tuple[Tensor, ...]:
        """The objective.

        Args:
            batch: "inputs" int64 [B, T], the source; "targets" int64 [B, T]: a source token whose own entry here is
                -100 is read, and need not be written.
            state: annotations [B, T, 2 H] and the decoder's first state [B, H], in a stage without `encoder`.

        Returns:
            In a stage without `decoder`, that state. Otherwise {"loss": (sum over target tokens in nats, their number),
            "accuracy": (tokens that are likeliest, their number)}.
        """
        source = batch["inputs"]
        annotations, first = self.encoder(source) if self.encoder is not None else state
        if self.decoder is None:
            return annotations, first
        target = source.flip(1)
        logits, _ = self.decoder(annotations, first, target)
        wanted = target.masked_fill(batch["targets"].flip(1) == IGNORED, IGNORED).flatten()
        logits = logits.flatten(0, 1).float()
        count = (wanted != IGNORED).sum().float()
        right = (logits.argmax(-1) == wanted).sum().float()
        return {"loss": (F.cross_entropy(logits, wanted, reduction="sum"), count), "accuracy": (right, count)}


class Encoder(nn.Module):
    """A source [B, T] to what was read around each token [B, T, 2 H], and the decoder's first state [B, H]."""

    def __init__(self, config: Seq2SeqConfig) -> None:
        super().__init__()
        self.embed = nn.Embedding(config.vocab_size, config.embedding)
        self.forwards, self.backwards = (GRU(config.embedding, config.width) for _ in range(2))
        self.begin = nn.Linear(config.width, config.width)

    def forward(self, source: Tensor) -> tuple[Tensor, Tensor]:
        x = self.embed(source)
        blank = x.new_zeros(len(source), self.begin.in_features)
        before, behind = self.forwards(x, blank), self.backwards(x.flip(1), blank).flip(1)
        return torch.cat((before, behind), -1), self.begin(behind[:, 0]).tanh()


class Attention(nn.Module):
    """Which annotations matter to a state: score tanh(W state + U annotation), softmax over the places.

    The alignment's units may be split over the tensor axis.
    """

    axes: Axes = ALONE

    def __init__(self, width: int, units: int) -> None:
        super().__init__()
        self.state = nn.Parameter(torch.empty(units, width))
        self.annotation = nn.Parameter(torch.empty(units, 2 * width))
        self.score = nn.Parameter(torch.empty(units))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw each weight as nn.Linear does."""
        for weight in (self.state, self.annotation, self.score):
            nn.init.uniform_(weight, -(weight.shape[-1] ** -0.5), weight.shape[-1] ** -0.5)

    def keys(self, annotations: Tensor) -> Tensor:
        """What a state is compared with: [B, T, 2 H] to [B, T, a], once for all steps."""
        return F.linear(enter(annotations, self.axes.tensor), local(self.annotation))

    def forward(self, state: Tensor, keys: Tensor) -> Tensor:
        """Weights [B, T] of the places, for a state [B, H] from which each rank goes on in its own way."""
        query = F.linear(state, local(self.state))
        scores = leave((query[:, None] + keys).tanh() @ local(self.score), self.axes.tensor)
        result: Tensor = scores.softmax(-1)
        return result


class Decoder(nn.Module):
    """Annotations and a first state to logits of a target that is known."""

    axes: Axes = ALONE

    def __init__(self, config: Seq2SeqConfig) -> None:
        super().__init__()
        self.embed = nn.Embedding(config.vocab_size + 1, config.embedding)  # the last one stands before the beginning
        self.attention = Attention(config.width, config.alignment)
        self.cell = GRU(config.embedding + 2 * config.width, config.width)
        self.maxout = nn.Linear(3 * config.width + config.embedding, 2 * config.maxout)
        self.output = nn.Linear(config.maxout, config.vocab_size)

    def forward(self, annotations: Tensor, first: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Logits [B, T, V] of each target token, and where attention was when it was written [B, T, T].

        Args:
            target: int64 [B, T]; of each step the decoder reads the token before.
        """
        before = F.pad(target[:, :-1], (1, 0), value=self.embed.num_embeddings - 1)
        read = self.embed(before)
        states, contexts, weights = self.write(annotations, first, read)
        halves = self.maxout(torch.cat((states, read, contexts), -1)).unflatten(-1, (-1, 2))
        logits: Tensor = self.output(halves.amax(-1))
        return logits, weights

    def write(self, annotations: Tensor, first: Tensor, read: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Of each step the state before it [B, T, H], what it attended to [B, T, 2 H], and the weights [B, T, T]."""
        axis, keys = self.axes.tensor, self.attention.keys(annotations)
        inputs = self.cell.inputs(enter(read, axis))
        own, state = part(first, axis, -1), enter(first, axis)
        states, contexts, weights = [], [], []
        for step in inputs.unbind(1):
            states.append(own)
            weights.append(self.attention(state, keys))
            contexts.append((weights[-1][:, None] @ annotations)[:, 0])
            attended = self.cell.inputs(enter(contexts[-1], axis), first=read.shape[-1])
            own = self.cell.step(step + attended, state, own)
            state = gather(own, axis, -1)
        return join(torch.stack(states, 1), axis, -1), torch.stack(contexts, 1), torch.stack(weights, 1)
