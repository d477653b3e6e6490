"""What does proximal policy optimization compute? An experience, and the clipped objective on it several times.

Schulman et al. (2017, 2016). B slots, T steps of an experience, N = 4 numbers of a state, A = 2 actions. In the phase
"fresh" the Program acts for T steps, whatever the episodes do, and keeps what it needs in streams; in that phase and in
"again" it learns from all of it at once.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..draw import draw
from ..environments.cartpole import CARTPOLE
from ..environments.environment import Lived, Slots
from .entry import ACTIONS, NUMBERS, PPOConfig

Term = tuple[Tensor, Tensor]


class PPO(nn.Module):
    """The Program: a batch of slots to the objective on their experience."""

    def __init__(self, config: PPOConfig) -> None:
        super().__init__()
        self.config = config
        self.policy, self.value = Network(config.width, ACTIONS, 0.01), Network(config.width, 1, 1.0)

    def forward(self, batch: Mapping[str, Tensor], phase: str) -> dict[str, Term | Mapping[str, Tensor]]:
        """The objective of one pass.

        Args:
            batch: "key" int32 [B, 2] and the streams.
            phase: "fresh" acts first, "again" does not.

        Returns:
            "loss" = policy + value - entropy, each with its weight, to be minimised; each of the three; in "fresh" the
            "return" of the episodes that ended; and "state".
        """
        with torch.no_grad():
            seen, extra = self.experience(batch) if phase == "fresh" else (kept(batch), {})
        terms = self.terms(seen)
        loss = terms["policy"] + self.config.value * terms["value"] - self.config.entropy * terms["entropy"]
        count = torch.tensor(float(seen["actions"].numel()), device=loss.device)
        told = {name: (x.detach(), count) for name, x in terms.items()}
        return {"loss": (loss, count), **told, **extra, "state": seen}

    def experience(self, batch: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Term]]:
        """New rows of all streams, and the returns of the episodes that ended."""
        slots, lives, actions, chances = self.act(batch)
        before, after = (torch.stack(x, 1) for x in ([a.before for a in lives], [a.after for a in lives]))
        reward, fallen, ended = (
            torch.stack(x, 1) for x in zip(*((a.reward, a.fallen, a.ended) for a in lives), strict=True)
        )
        values, nexts = self.value(before)[..., 0], self.value(after)[..., 0]
        advantages = estimate(reward, values, nexts, fallen, ended, self.config.discount, self.config.smoothing)
        seen = {
            "states": before,
            "actions": actions,
            "chances": chances,
            "advantages": advantages,
            "worths": advantages + values,
        }
        return {**slots.streams(), **seen}, {"return": returns(lives)}

    def act(self, batch: Mapping[str, Tensor]) -> tuple[Slots, list[Lived], Tensor, Tensor]:
        """Steps of every slot by the policy's own probabilities: the slots, their lives, actions and chances [B, T]."""
        key, steps = batch["key"], self.config.horizon
        uniform = draw(key, "begin", (steps + 1, NUMBERS))
        noise = draw(key, "action", (steps, ACTIONS)).clamp_(min=2.0**-25).log_().neg_().log_().neg_()
        slots, lives, actions, chances = Slots(CARTPOLE, batch, uniform[:, steps]), [], [], []
        for step in range(steps):
            logits = self.policy(slots.state)
            actions.append((logits + noise[:, step]).argmax(-1))
            chances.append(chance(logits, actions[-1]))
            lives.append(slots.act(actions[-1], uniform[:, step]))
        return slots, lives, torch.stack(actions, 1), torch.stack(chances, 1)

    def terms(self, seen: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Sums over an experience: the clipped objective (equation 7) negated, the value's squared error, entropy."""
        logits = self.policy(seen["states"])
        ratio = (chance(logits, seen["actions"]) - seen["chances"]).exp()
        clipped = ratio.clamp(1.0 - self.config.clip, 1.0 + self.config.clip)
        worth = self.value(seen["states"])[..., 0]
        logarithms = logits.log_softmax(-1)
        return {
            "policy": -torch.minimum(ratio * seen["advantages"], clipped * seen["advantages"]).sum(),
            "value": (worth - seen["worths"]).square().sum(),
            "entropy": -(logarithms.exp() * logarithms).sum(),
        }


class Network(nn.Module):
    """States [..., N] to [..., outputs]."""

    def __init__(self, width: int, outputs: int, gain: float) -> None:
        super().__init__()
        self.first = nn.Linear(NUMBERS, width)
        self.second = nn.Linear(width, width)
        self.last = nn.Linear(width, outputs)
        for layer, scale in ((self.first, 2**0.5), (self.second, 2**0.5), (self.last, gain)):
            nn.init.orthogonal_(layer.weight, scale)
            nn.init.zeros_(layer.bias)

    def forward(self, state: Tensor) -> Tensor:
        result: Tensor = self.last(F.tanh(self.second(F.tanh(self.first(state)))))
        return result


def kept(batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The streams as they came."""
    return {name: x for name, x in batch.items() if name not in ("sample", "key")}


def chance(logits: Tensor, action: Tensor) -> Tensor:
    """Logarithm of an action's probability, [...] of logits [..., A]."""
    return logits.log_softmax(-1).gather(-1, action[..., None])[..., 0]


def estimate(
    reward: Tensor,
    values: Tensor,
    nexts: Tensor,
    fallen: Tensor,
    ended: Tensor,
    discount: float,
    smoothing: float,
) -> Tensor:
    """Generalized advantages [B, T] (Schulman et al. 2016, equation 16).

    Where an episode was cut off its next state still has a value; where it fell, nothing follows. All are [B, T]:

    Args:
        values, nexts: of the state before and of the state after each step.
        fallen, ended: bool; no advantage reaches back over the end of an episode.
    """
    surprises = reward + discount * nexts * ~fallen - values
    advantage, found = torch.zeros_like(values[:, 0]), []
    for step in reversed(range(values.shape[1])):
        advantage = surprises[:, step] + discount * smoothing * ~ended[:, step] * advantage
        found.append(advantage)
    return torch.stack(found[::-1], 1)


def returns(lives: Sequence[Lived]) -> Term:
    """Rewards of the episodes that ended, and their number."""
    ended = torch.stack([life.ended for life in lives])
    return (torch.stack([life.total for life in lives]) * ended).sum(), ended.sum().float()
