"""What does an LSTM language model compute? Embedding, stacked layers with dropout between them, projection.

Hochreiter and Schmidhuber (1997); Zaremba, Sutskever and Vinyals (2014). Truncated back-propagation through time: a
sample is a stretch of T tokens; the layers' states come in from the stretch before it and go out to the next, while
gradients stay within the stretch. B samples, H units of a layer (and numbers of a token), V vocabulary.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ..draw import dropout
from ..layers.embedding import Embedding
from ..layers.head import Head
from ..layers.recurrent import LSTM
from .entry import LSTMConfig


class LanguageModel(nn.Module):
    """The Program: a batch to the sum of its tokens' losses.

    A pipeline stage sets `embed` or `head` to None and drops layers; what is left keeps its name.
    """

    def __init__(self, config: LSTMConfig) -> None:
        super().__init__()
        self.embed: Embed | None = Embed(config)
        self.layers = nn.ModuleDict({str(index): Layer(config, index) for index in range(config.layers)})
        weight = nn.Parameter(torch.empty(config.vocab_size, config.width + 1))
        self.head: Output | None = Output(config, weight)
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -config.within, config.within)

    def forward(self, batch: Mapping[str, Tensor], *state: Tensor) -> dict[str, object] | tuple[object, ...]:
        """The objective; the first of several answers that fits.

        Args:
            batch: "inputs" int64 [B, T]; "targets" int64 [B, T], -100 where nothing is to be predicted; "hidden.i" and
                "cell.i" [B, H] of each layer here, zeros where they are missing; "key" int32 [B, 2], needed in
                training with dropout.
            state: outputs [B, T, H] of the layer before, in a stage without `embed`.

        Returns:
            In a stage without `head`, the outputs and {"state"} in a tuple. Without targets, {"logits": [B, T, V]} and
            "state". Otherwise {"loss": (sum over targets in nats, number of targets)} and "state": the layers' new
            states, by the names that they have in the batch.
        """
        x = self.embed(batch["inputs"]) if self.embed is not None else state[0]
        states: dict[str, Tensor] = {}
        for layer in self.layers.values():
            x, new = layer(x, batch)
            states |= new
        if self.head is None:
            return (x, {"state": states})
        return {**self.head(x, batch.get("targets"), batch.get("key")), "state": states}


class Embed(nn.Module):
    """Tokens [B, T] to vectors [B, T, H]."""

    def __init__(self, config: LSTMConfig) -> None:
        super().__init__()
        self.tokens = Embedding(config.vocab_size, config.width)

    def forward(self, inputs: Tensor) -> Tensor:
        result: Tensor = self.tokens(inputs)
        return result


class Layer(nn.Module):
    """Dropout of what the layer before gave, and a run over the stretch: [B, T, H] to [B, T, H]."""

    def __init__(self, config: LSTMConfig, index: int) -> None:
        super().__init__()
        self.names = (f"hidden.{index}", f"cell.{index}")
        self.dropout, self.name = config.dropout, f"layers.{index}"
        self.cell = LSTM(config.width, config.width)

    def forward(self, x: Tensor, batch: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        if self.training:
            x = dropout(x, self.dropout, batch.get("key"), self.name)
        blank = x.new_zeros(x.shape[0], x.shape[2])
        y, *states = self.cell(x, *(batch.get(name, blank) for name in self.names))
        return y, dict(zip(self.names, states, strict=True))


class Output(Head):
    """The last layer's outputs [B, T, H] to losses, or to logits [B, T, V]; the weight's last column is the bias."""

    def __init__(self, config: LSTMConfig, weight: nn.Parameter) -> None:
        super().__init__(nn.ConstantPad1d((0, 1), 1.0), weight)
        self.dropout = config.dropout

    def forward(  # type: ignore[override]
        self, x: Tensor, targets: Tensor | None, key: Tensor | None
    ) -> dict[str, tuple[Tensor, Tensor]] | dict[str, Tensor]:
        return super().forward(dropout(x, self.dropout, key, "head") if self.training else x, targets)
