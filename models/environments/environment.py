"""What lives in a sample slot? One episode after the other of an environment that is a pure function.

What a slot carries from a step of training to the next is in streams: the state, the age and the score of its episode.
A slot's rows are zeros before its first episode, so the age is counted from one. B slots, N numbers of a state.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from .streams import AGE, SCORE, STATE


@dataclass(frozen=True)
class Moved:
    """What an action led to."""

    state: Tensor  # [B, N]
    reward: Tensor  # float32 [B]
    fallen: Tensor  # bool [B]: the episode ends, nothing comes after it


@dataclass(frozen=True)
class Environment:
    """A world as functions of rows."""

    begin: Callable[[Tensor], Tensor]  # uniform numbers [..., N] -> states that episodes begin in
    move: Callable[[Tensor, Tensor], Moved]  # (states [B, N], actions int64 [B])
    numbers: int  # of a state
    actions: int
    limit: int  # steps after which an episode is cut off


@dataclass(frozen=True)
class Lived:
    """One step of every slot."""

    before: Tensor  # [B, N]
    after: Tensor  # [B, N]: of the same episode, also where that has ended
    reward: Tensor  # [B]
    fallen: Tensor  # bool [B]: nothing comes after it
    ended: Tensor  # bool [B]: it has fallen, or was cut off
    total: Tensor  # [B]: rewards of the episode so far


class Slots:
    """The slots of a batch while they live through some steps."""

    def __init__(self, world: Environment, batch: Mapping[str, Tensor], uniform: Tensor) -> None:
        """Go on from the streams.

        Args:
            uniform: numbers [B, N] for the first episode of slots that have none yet.
        """
        self.world, begun = world, batch[AGE] > 0
        self.state = torch.where(begun[:, None], batch[STATE], world.begin(uniform))
        self.age, self.score = batch[AGE].clamp(min=1), batch[SCORE]

    def act(self, action: Tensor, uniform: Tensor) -> Lived:
        """Take an action in every slot; where an episode ends, the next one begins from the uniform numbers [B, N]."""
        moved, before = self.world.move(self.state, action), self.state
        ended, total = moved.fallen | (self.age >= self.world.limit), self.score + moved.reward
        self.state = torch.where(ended[:, None], self.world.begin(uniform), moved.state)
        self.age = torch.where(ended, 1, self.age + 1)
        self.score = torch.where(ended, 0.0, total)
        return Lived(before, moved.state, moved.reward, moved.fallen, ended, total)

    def streams(self) -> dict[str, Tensor]:
        """What the slots carry on."""
        return {STATE: self.state, AGE: self.age, SCORE: self.score}
