"""What does a neural ODE compute? A series' future: its past becomes a state, whose motion is a network.

Chen et al., "Neural Ordinary Differential Equations" (2018). B samples, T values of a series, D numbers of a state.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from .adjoint import solve
from .entry import NeuralODEConfig

Terms = dict[str, tuple[Tensor, Tensor]]


class NeuralODE(nn.Module):
    """The Program: series to the squared errors of their forecasts."""

    def __init__(self, config: NeuralODEConfig) -> None:
        super().__init__()
        self.seen, self.steps = config.seen, config.steps
        self.encoder = Pair(config.seen, config.encoder, config.state)
        self.motion = Motion(config.state, config.hidden)
        self.decoder = Pair(config.state, config.hidden, 1)

    def forward(self, batch: Mapping[str, Tensor]) -> Terms:
        """The objective.

        Args:
            batch: "times" [B, T], rising; "values" [B, T].

        Returns:
            "loss": (sum of the squared errors of the values that are forecast, their number).
        """
        times, values = batch["times"], batch["values"]
        error = self.forecast(times, values[:, : self.seen]) - values[:, self.seen :]
        return {"loss": (error.float().square().sum(), error.new_tensor(float(error.numel())))}

    def forecast(self, times: Tensor, seen: Tensor) -> Tensor:
        """Values at the times [B, T] behind those that are given [B, seen], [B, T - seen].

        Raises:
            ValueError: there is nothing to forecast, or another number of values is given.
        """
        if seen.shape[1] != self.seen or times.shape[1] <= self.seen:
            raise ValueError(
                f"{seen.shape[1]} values at {times.shape[1]} times: expected seen={self.seen} values and more times"
            )
        states = solve(self.motion, times[:, self.seen - 1 :], self.encoder(seen), self.steps)
        result: Tensor = self.decoder(states[:, 1:]).squeeze(-1)
        return result


class Pair(nn.Module):
    """Two linear layers with a smooth function between them."""

    def __init__(self, before: int, between: int, after: int) -> None:
        super().__init__()
        self.expand = nn.Linear(before, between)
        self.contract = nn.Linear(between, after)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.contract(torch.tanh(self.expand(x)))
        return result


class Motion(Pair):
    """How the state [B, D] moves at a time [B, 1]: its derivative [B, D] by time."""

    def __init__(self, state: int, hidden: int) -> None:
        super().__init__(state + 1, hidden, state)

    def forward(self, time: Tensor, state: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(torch.cat((state, time), 1))
