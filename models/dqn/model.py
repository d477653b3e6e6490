"""What does a deep Q-network compute? It acts in its slots, remembers, and learns from drawn memories.

Mnih et al. (2015); van Hasselt, Guez and Silver (2016). B slots, N = 4 numbers of a state, A = 2 actions, M memory,
R replayed transitions of a slot. A forward acts for a fixed number of steps, whatever the episodes do, so every rank
runs the network equally often.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..draw import draw, integers
from ..environments.cartpole import CARTPOLE
from ..environments.environment import Lived, Slots
from .entry import ACTIONS, NUMBERS, DQNConfig

Term = tuple[Tensor, Tensor]


class DQN(nn.Module):
    """The Program: one update's actions, and the loss of what is replayed."""

    def __init__(self, config: DQNConfig) -> None:
        super().__init__()
        self.config = config
        self.online, self.target = Network(config.width), Network(config.width)
        self.target.load_state_dict(self.online.state_dict())
        self.target.requires_grad_(False)

    def forward(self, batch: Mapping[str, Tensor]) -> dict[str, Term | dict[str, Tensor]]:
        """Act, remember, and learn.

        Args:
            batch: "key" int32 [B, 2] and the streams: the slots' episodes, "memory" [B, M, 2 N + 3], "acted" int64 [B].

        Returns:
            "loss" (Huber, of Q against its targets), "return" of the episodes that ended, "value" (Q of what was
            replayed), and "state".
        """
        with torch.no_grad():
            slots, lives = self.act(batch)
            memory, acted = self.remember(batch, lives)
            replayed = pick(memory, acted, batch["key"], self.config.replay).flatten(0, 1)
            state, after, action, reward, fallen = replayed.split((NUMBERS, NUMBERS, 1, 1, 1), -1)
            wanted = reward[:, 0] + self.config.discount * (1.0 - fallen[:, 0]) * self.worth(after)
        value = self.online(state).gather(1, action.long())[:, 0]
        count = torch.tensor(float(len(value)), device=value.device)
        return {
            "loss": (F.huber_loss(value, wanted, reduction="sum"), count),
            "return": returns(lives),
            "value": (value.detach().sum(), count),
            "state": {**slots.streams(), "memory": memory, "acted": acted},
        }

    def act(self, batch: Mapping[str, Tensor]) -> tuple[Slots, list[tuple[Tensor, Lived]]]:
        """Epsilon-greedy steps of every slot: (actions [B], what they led to) of each."""
        key, steps = batch["key"], self.config.horizon
        uniform = draw(key, "begin", (steps + 1, NUMBERS))
        explore, drawn = draw(key, "explore", (steps,)), integers(key, "action", (steps,), 0, ACTIONS)
        slots, lives = Slots(CARTPOLE, batch, uniform[:, steps]), []
        for step in range(steps):
            greedy = self.online(slots.state).argmax(-1)
            action = torch.where(explore[:, step] < self.epsilon(batch["acted"] + step), drawn[:, step], greedy)
            lives.append((action, slots.act(action, uniform[:, step])))
        return slots, lives

    def epsilon(self, acted: Tensor) -> Tensor:
        """Share of random actions after so many: from one, in a straight line, to the last one."""
        return (1.0 - (1.0 - self.config.explore) * acted / self.config.explore_for).clamp(min=self.config.explore)

    def remember(self, batch: Mapping[str, Tensor], lives: list[tuple[Tensor, Lived]]) -> tuple[Tensor, Tensor]:
        """The memory [B, M, 2 N + 3] with the newest transitions in the place of the oldest, and actions taken [B]."""
        rows = torch.stack([row(action, life) for action, life in lives], 1)
        acted = batch["acted"][:, None] + torch.arange(len(lives), device=rows.device)
        places = (acted % self.config.memory)[:, :, None].expand_as(rows)
        return batch["memory"].scatter(1, places, rows), batch["acted"] + len(lives)

    def worth(self, state: Tensor) -> Tensor:
        """What the next state is worth, [B R]: its best action's target value, or that of the network's own choice."""
        values: Tensor = self.target(state)
        if not self.config.double:
            return values.amax(-1)
        return values.gather(1, self.online(state).argmax(-1, keepdim=True))[:, 0]


class Network(nn.Module):
    """States [B, N] to the value of each action [B, A]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Linear(NUMBERS, width)
        self.second = nn.Linear(width, width)
        self.values = nn.Linear(width, ACTIONS)

    def forward(self, state: Tensor) -> Tensor:
        result: Tensor = self.values(F.relu(self.second(F.relu(self.first(state)))))
        return result


def row(action: Tensor, life: Lived) -> Tensor:
    """A transition as numbers [B, 2 N + 3]."""
    ends = [x.float()[:, None] for x in (action, life.reward, life.fallen)]
    return torch.cat((life.before, life.after, *ends), -1)


def pick(memory: Tensor, acted: Tensor, key: Tensor, number: int) -> Tensor:
    """Transitions [B, number, ...] of each slot's own, drawn uniformly with repetition."""
    held = acted.clamp(max=memory.shape[1])[:, None]
    places = (draw(key, "replay", (number,)) * held).long().minimum(held - 1)
    return memory.take_along_dim(places[:, :, None], 1)


def returns(lives: list[tuple[Tensor, Lived]]) -> Term:
    """Rewards of the episodes that ended, and their number."""
    ended = torch.stack([life.ended for _, life in lives])
    return (torch.stack([life.total for _, life in lives]) * ended).sum(), ended.sum().float()
