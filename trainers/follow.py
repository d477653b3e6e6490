"""How do untrained parameters follow trained ones? Element by element, on each rank's own part (an EMA or a copy)."""

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from ..models.axes import local
from ..models.entry import Follow


class Following:
    """The targets of an entry and what they follow."""

    def __init__(self, follows: Sequence[Follow], parameters: Mapping[str, nn.Parameter], steps: int) -> None:
        """Pair the parameters.

        Args:
            parameters: of this rank, by the names of the whole model.
            steps: of the run.

        Raises:
            ValueError: a target has no source of its name and shape, or is trained.
        """
        self.steps = steps
        self.pairs = [(follow, *pair) for follow in follows for pair in _pairs(follow, parameters)]

    @torch.no_grad()
    def step(self, updates: int) -> None:
        """After so many updates, move the targets whose turn it is."""
        for follow, target, source in self.pairs:
            if updates % follow.every == 0:
                decay = follow.decay(updates, self.steps) if callable(follow.decay) else follow.decay
                local(target.detach()).lerp_(local(source.detach()), 1.0 - decay)


def _pairs(follow: Follow, parameters: Mapping[str, nn.Parameter]) -> list[tuple[nn.Parameter, nn.Parameter]]:
    found = []
    for name, target in parameters.items():
        if not name.startswith(f"{follow.target}."):
            continue
        source = parameters.get(follow.source + name.removeprefix(follow.target))
        if source is None or source.shape != target.shape:
            raise ValueError(f"{name} follows {follow.source}, which has no parameter of that name and shape")
        if target.requires_grad:
            raise ValueError(f"{name} follows {follow.source}, so it is not trained: set requires_grad=False")
        found.append((target, source))
    return found
