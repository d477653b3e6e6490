"""Is proximal policy optimization the paper's, and does it learn under any layout?"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from learning import train
from shardwright.jobs.verify import verify
from shardwright.models.draw import keys
from shardwright.models.environments.cartpole import CARTPOLE
from shardwright.models.ppo.entry import ENTRY, PRESETS, PPOConfig, parameters, shapes, streams
from shardwright.models.ppo.model import PPO, estimate
from shardwright.trainers.layout import parse_strategy
from shardwright.trainers.world import Worker
from stable_baselines3.common.buffers import RolloutBuffer
from torch import Tensor

SLOTS = 6
SMALL = PPOConfig(width=16, horizon=40, entropy=0.01)


def built() -> PPO:
    torch.manual_seed(0)
    return PPO(SMALL)


def fresh(program: PPO) -> dict[str, Any]:
    blank = {
        name: torch.zeros(SLOTS, *one.shape, dtype=getattr(torch, one.dtype)) for name, one in streams(SMALL).items()
    }
    return dict(program({"key": keys(0, 0, torch.arange(SLOTS)), **blank}, phase="fresh"))


@pytest.mark.parametrize("preset", PRESETS)
def test_counts_are_those_of_the_built_model(preset: str) -> None:
    with torch.device("meta"):
        program = PPO(PRESETS[preset])
    assert {name: tuple(p.shape) for name, p in program.named_parameters()} == shapes(PRESETS[preset])
    assert parameters(PRESETS[preset]) == sum(p.numel() for p in program.parameters())


def test_the_papers_sizes() -> None:
    paper = PRESETS["mujoco"]
    assert (paper.horizon, paper.discount, paper.smoothing, paper.clip) == (2048, 0.99, 0.95, 0.2)
    assert sum(phase.times for phase in ENTRY.phases) == 10


@pytest.mark.parametrize(
    ("sizes", "message"),
    [({"horizon": 0}, "horizon=0"), ({"smoothing": 1.1}, "smoothing=1.1"), ({"entropy": -1.0}, "entropy=-1.0")],
)
def test_impossible_sizes_are_refused(sizes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PPOConfig(**sizes)


def test_advantages_are_those_of_stable_baselines() -> None:
    rng, steps = np.random.default_rng(0), 30
    reward, values, nexts = (torch.from_numpy(rng.normal(size=(SLOTS, steps)).astype(np.float32)) for _ in range(3))
    ended = torch.from_numpy(rng.random((SLOTS, steps)) < 0.2)
    fallen = ended & torch.from_numpy(rng.random((SLOTS, steps)) < 0.5)
    going = ~ended[:, :-1]
    nexts[:, :-1][going] = values[:, 1:][going]  # within an episode the next state is the next step's
    found = estimate(reward, values, nexts, fallen, ended, 0.9, 0.8)
    buffer = RolloutBuffer(steps, spaces.Box(-1, 1, (1,)), spaces.Discrete(2), "cpu", 0.8, 0.9, SLOTS)
    cut = ended & ~fallen
    cut[:, -1] = False  # of a last step it takes the next value itself
    starts = torch.cat((torch.zeros(SLOTS, 1, dtype=torch.bool), ended[:, :-1]), 1)
    for step in range(steps):
        worth = reward[:, step] + 0.9 * nexts[:, step] * cut[:, step]
        blank = np.zeros((SLOTS, 1), np.float32)
        buffer.add(blank, blank, worth.numpy(), starts[:, step].numpy(), values[:, step], torch.zeros(SLOTS))
    buffer.compute_returns_and_advantage(nexts[:, -1], fallen[:, -1].numpy())
    np.testing.assert_allclose(found.numpy().T, buffer.advantages, rtol=1e-5, atol=1e-5)


def test_an_experience_is_what_happened() -> None:
    program = built()
    answer = fresh(program)
    seen = answer["state"]
    states, actions = seen["states"], seen["actions"]
    logits = program.policy(states)
    torch.testing.assert_close(seen["chances"], logits.log_softmax(-1).gather(-1, actions[..., None])[..., 0])
    for step in range(SMALL.horizon - 1):
        moved = CARTPOLE.move(states[:, step], actions[:, step])
        torch.testing.assert_close(moved.state[~moved.fallen], states[:, step + 1][~moved.fallen])
        assert (states[:, step + 1][moved.fallen].abs() <= 0.05).all()
    assert 0.3 < actions.float().mean() < 0.7
    torch.testing.assert_close(seen["worths"], seen["advantages"] + program.value(states)[..., 0])


def test_actions_follow_the_policy() -> None:
    program = built()
    with torch.no_grad():
        program.policy.last.weight.zero_()
        program.policy.last.bias.copy_(torch.tensor([0.0, 1.0]))
    blank = {
        name: torch.zeros(500, *one.shape, dtype=getattr(torch, one.dtype)) for name, one in streams(SMALL).items()
    }
    found = program({"key": keys(0, 0, torch.arange(500)), **blank}, phase="fresh")
    assert found["state"]["actions"].float().mean() == pytest.approx(torch.tensor(1.0).sigmoid().item(), abs=0.01)


def test_the_objective_is_the_papers() -> None:
    program = built()
    seen = fresh(program)["state"]
    with torch.no_grad():
        for parameter in program.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))  # so that some ratios are clipped
    answer = program({"key": keys(0, 1, torch.arange(SLOTS)), **seen}, phase="again")
    policy, value, entropy = 0.0, 0.0, 0.0
    clipped = 0
    for slot in range(SLOTS):
        for step in range(SMALL.horizon):
            chances = program.policy(seen["states"][slot, step]).softmax(-1)
            ratio = chances[seen["actions"][slot, step]] / seen["chances"][slot, step].exp()
            advantage = seen["advantages"][slot, step]
            limited = min(max(ratio, torch.tensor(0.8)), torch.tensor(1.2))
            clipped += int(limited * advantage < ratio * advantage)
            policy = policy - torch.minimum(ratio * advantage, limited * advantage)
            value = value + (program.value(seen["states"][slot, step])[0] - seen["worths"][slot, step]) ** 2
            entropy = entropy - (chances * chances.log()).sum()
    assert clipped > 0
    loss = policy + 0.5 * value - 0.01 * entropy
    torch.testing.assert_close(answer["loss"][0], loss, rtol=1e-4, atol=1e-4)
    assert answer["loss"][1] == SLOTS * SMALL.horizon
    assert "return" not in answer
    mine = torch.autograd.grad(answer["loss"][0], list(program.parameters()))
    theirs = torch.autograd.grad(loss, list(program.parameters()))
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)
    for name, row in answer["state"].items():
        assert torch.equal(row, seen[name])


def test_the_first_pass_has_ratios_of_one() -> None:
    program = built()
    answer = fresh(program)
    advantages: Tensor = answer["state"]["advantages"]
    torch.testing.assert_close(answer["policy"][0], -advantages.sum())


def returns(worker: Worker, steps: int) -> list[float]:
    made = train(worker, "ppo", steps, batch=32, optimizer={"lr": 1e-3, "weight_decay": 0.0})
    return [one["return"] for one in made.terms if "return" in one]


def test_it_learns_to_balance(ranks: Callable[..., list[Any]]) -> None:
    (found,) = ranks(returns, 1, deadline=240, steps=300)
    random, last = found[0], found[-5:]
    assert 15 < random < 30
    assert sum(last) / len(last) > 5 * random


def differences(worker: Worker, strategy: str) -> dict[str, float] | None:
    return verify(worker, "ppo", "", {"width": 16, "horizon": 16}, "", strategy, {})


@pytest.mark.parametrize("strategy", ["zero3", "zero2_tensor2"])
def test_a_layout_never_changes_the_result(ranks: Callable[..., list[Any]], strategy: str) -> None:
    found = ranks(differences, parse_strategy(strategy).world_size, strategy=strategy)[0]
    assert all(value <= 1e-5 for value in found.values()), found
