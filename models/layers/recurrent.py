"""How does a recurrent layer run over time, whole or with its units split over the tensor axis?

A weight is [H, gates, inputs]: dim 0 is the unit, so a rank of the tensor axis holds all gates of its units, and ZeRO
shards over as many ranks as there are units. Whole layers use torch's fused kernels. Where the units are split, each
rank computes its own of a step, and the next step's gates need them all: one small all-gather a step.

B samples, T steps, I inputs, H units (h of this rank).
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..axes import ALONE, Axes, local
from .collectives import enter, gather, join, part


class LSTM(nn.Module):
    """Long short-term memory (Hochreiter and Schmidhuber 1997; with the forget gate of Gers et al. 2000).

    Gates in torch's order: input, forget, candidate, output. Weights are uniform within 1 / sqrt(H).
    """

    axes: Axes = ALONE

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.width = width
        self.input_weight = nn.Parameter(torch.empty(width, 4, inputs))
        self.hidden_weight = nn.Parameter(torch.empty(width, 4, width))
        self.bias = nn.Parameter(torch.empty(width, 4))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the weights from torch's default generator."""
        for weight in self.parameters():
            nn.init.uniform_(weight, -(self.width**-0.5), self.width**-0.5)

    def forward(self, x: Tensor, hidden: Tensor, cell: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Run over x [B, T, I] from the states [B, H]: outputs [B, T, H] and the states [B, H] after the last step."""
        if local(self.hidden_weight).shape[0] < self.width:
            return self._split(x, hidden, cell)
        bias = by_gate(self.bias)
        weights = [by_gate(self.input_weight), by_gate(self.hidden_weight), bias, torch.zeros_like(bias)]
        states = [hidden[None].to(x.dtype), cell[None].to(x.dtype)]
        y, last, kept = torch.lstm(x, states, weights, True, 1, 0.0, self.training, False, True)
        return y, last[0], kept[0]

    def _split(self, x: Tensor, hidden: Tensor, cell: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        axis, weight = self.axes.tensor, local(self.hidden_weight).flatten(0, 1)
        inputs = F.linear(enter(x, axis), local(self.input_weight).flatten(0, 1), local(self.bias).flatten())
        hidden, cell = enter(hidden, axis), part(cell, axis, -1)
        outputs = []
        for step in inputs.unbind(1):
            gates = (step + F.linear(hidden, weight)).unflatten(-1, (-1, 4))  # [B, h, 4]
            keep, forget, candidate, output = gates.unbind(-1)
            cell = forget.sigmoid() * cell + keep.sigmoid() * candidate.tanh()
            outputs.append(output.sigmoid() * cell.tanh())
            hidden = gather(outputs[-1], axis, -1)
        y = join(torch.stack(outputs, 1), axis, -1)
        return y, y[:, -1], join(cell, axis, -1)


class GRU(nn.Module):
    """Gated recurrent unit (Cho et al. 2014), its reset gate applied behind the hidden weight, as torch's does.

    Gates in torch's order: reset, update, candidate. Weights are uniform within 1 / sqrt(H).
    """

    axes: Axes = ALONE

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.width = width
        self.input_weight = nn.Parameter(torch.empty(width, 3, inputs))
        self.hidden_weight = nn.Parameter(torch.empty(width, 3, width))
        self.bias = nn.Parameter(torch.empty(width, 3))
        self.reset_bias = nn.Parameter(torch.empty(width))  # within the reset gate; the others' would be the bias again
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the weights from torch's default generator."""
        for weight in self.parameters():
            nn.init.uniform_(weight, -(self.width**-0.5), self.width**-0.5)

    def forward(self, x: Tensor, hidden: Tensor) -> Tensor:
        """Run over x [B, T, I] from the state [B, H]: outputs [B, T, H], the last of them the state after."""
        if local(self.hidden_weight).shape[0] < self.width:
            return self._split(x, hidden)
        within = F.pad(self.reset_bias, (2 * self.width, 0))
        weights = [by_gate(self.input_weight), by_gate(self.hidden_weight), by_gate(self.bias), within]
        y: Tensor = torch.gru(x, hidden[None].to(x.dtype), weights, True, 1, 0.0, self.training, False, True)[0]
        return y

    def _split(self, x: Tensor, hidden: Tensor) -> Tensor:
        axis = self.axes.tensor
        inputs = self.inputs(enter(x, axis))
        own, hidden = part(hidden, axis, -1), enter(hidden, axis)
        outputs = []
        for step in inputs.unbind(1):
            own = self.step(step, hidden, own)
            hidden = gather(own, axis, -1)
            outputs.append(own)
        return join(torch.stack(outputs, 1), axis, -1)

    def inputs(self, x: Tensor, first: int = 0) -> Tensor:
        """What the inputs add to this rank's gates: x [..., i] to [..., 3 h].

        Args:
            first: x holds the inputs from this one on; the bias goes with the first.
        """
        weight = local(self.input_weight)[:, :, first : first + x.shape[-1]].flatten(0, 1)
        return F.linear(x, weight, None if first else local(self.bias).flatten())

    def step(self, inputs: Tensor, hidden: Tensor, own: Tensor) -> Tensor:
        """This rank's new units [B, h], from what inputs add [B, 3 h], all units [B, H] and its own [B, h]."""
        recurrent = F.linear(hidden, local(self.hidden_weight).flatten(0, 1)).unflatten(-1, (-1, 3))
        by_input, by_hidden = inputs.unflatten(-1, (-1, 3)).unbind(-1), recurrent.unbind(-1)
        reset, update = ((a + b).sigmoid() for a, b in zip(by_input[:2], by_hidden[:2], strict=True))
        candidate = (by_input[2] + reset * (by_hidden[2] + local(self.reset_bias))).tanh()
        new: Tensor = candidate + update * (own - candidate)
        return new


def by_gate(weight: Tensor) -> Tensor:
    """[H, gates, ...] as torch's kernels have it, [gates * H, ...]."""
    result: Tensor = weight.transpose(0, 1).flatten(0, 1)
    return result
