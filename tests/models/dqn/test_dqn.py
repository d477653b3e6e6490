"""Does the deep Q-network act, remember and learn as the papers say, under any layout?"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from learning import train
from shardwright.jobs.verify import verify
from shardwright.models.dqn.entry import PRESETS, DQNConfig, parameters, shapes, streams
from shardwright.models.dqn.model import DQN, pick
from shardwright.models.draw import keys
from shardwright.models.environments.cartpole import CARTPOLE
from shardwright.trainers.layout import parse_strategy
from shardwright.trainers.world import Worker
from torch import Tensor
from torch.nn import functional as F

SLOTS = 5
SMALL = DQNConfig(width=16, memory=6, horizon=4, replay=3, discount=0.9, explore_for=8, explore=0.0, copy_every=2)


def built(**changed: Any) -> DQN:
    torch.manual_seed(0)
    program = DQN(DQNConfig(**{**vars(SMALL), **changed}))
    torch.nn.init.normal_(program.target.values.weight)  # unlike the online network's
    return program


def blank(config: DQNConfig) -> dict[str, Tensor]:
    return {
        name: torch.zeros(SLOTS, *one.shape, dtype=getattr(torch, one.dtype)) for name, one in streams(config).items()
    }


def lived(program: DQN, updates: int) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The last update's answer, and the batch that it read."""
    state: Any = blank(program.config)
    for update in range(updates):
        batch = {"key": keys(0, update, torch.arange(SLOTS)), **state}
        answer = program(batch)
        state = answer["state"]
    return answer, batch


@pytest.mark.parametrize("preset", PRESETS)
def test_counts_are_those_of_the_built_model(preset: str) -> None:
    with torch.device("meta"):
        program = DQN(PRESETS[preset])
    assert {name: tuple(p.shape) for name, p in program.named_parameters()} == shapes(PRESETS[preset])
    assert parameters(PRESETS[preset]) == sum(p.numel() for p in program.parameters())
    assert {name for name, p in program.named_parameters() if not p.requires_grad} == {
        name for name in shapes(PRESETS[preset]) if name.startswith("target.")
    }


@pytest.mark.parametrize(
    ("sizes", "message"),
    [({"replay": 0}, "replay=0"), ({"discount": 1.1}, "discount=1.1"), ({"memory": 3}, "do not fit into memory=3")],
)
def test_impossible_sizes_are_refused(sizes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DQNConfig(**sizes)


def test_the_memory_holds_what_happened() -> None:
    """The newest six of eight transitions, each a true one, each beginning where the one before it ended."""
    answer, _ = lived(built(), 2)
    memory, acted = answer["state"]["memory"], answer["state"]["acted"]
    assert acted.tolist() == [8] * SLOTS
    order = [2, 3, 4, 5, 0, 1]  # places of the transitions 2 to 7
    before, after, action, reward, fallen = memory[:, order].split((4, 4, 1, 1, 1), -1)
    for step in range(6):
        moved = CARTPOLE.move(before[:, step], action[:, step, 0].long())
        assert torch.equal(after[:, step], moved.state)
        assert torch.equal(reward[:, step, 0], moved.reward)
        assert torch.equal(fallen[:, step, 0].bool(), moved.fallen)
    assert not fallen.any()
    assert torch.equal(after[:, :-1], before[:, 1:])
    assert torch.equal(answer["state"]["slot.state"], after[:, -1])
    assert torch.equal(answer["state"]["slot.age"], torch.full((SLOTS,), 9))
    assert torch.equal(answer["state"]["slot.score"], torch.full((SLOTS,), 8.0))


def test_episodes_end_begin_anew_and_are_counted() -> None:
    program, ended, total = built(explore_for=10_000, memory=64, horizon=64), 0.0, 0.0
    state: Any = blank(program.config)
    for update in range(4):
        answer = program({"key": keys(0, update, torch.arange(SLOTS)), **state})
        state = answer["state"]
        fallen = state["memory"][..., 10]
        assert answer["return"][1] == fallen.sum()
        ended, total = ended + answer["return"][1].item(), total + answer["return"][0].item()
    assert ended > 4
    assert total + state["slot.score"].sum() == 4 * 64 * SLOTS  # each step is worth one and belongs to one episode
    assert (state["slot.state"].abs() < torch.tensor([2.4, 100.0, 0.21, 100.0])).all()


def test_exploration_falls_and_then_actions_are_greedy() -> None:
    program = built()
    share = program.epsilon(torch.tensor([0, 2, 4, 8, 100]))
    torch.testing.assert_close(share, torch.tensor([1.0, 0.75, 0.5, 0.0, 0.0]))
    answer, _ = lived(program, 4)  # the last one acts after 12 actions
    before, _, action, _, _ = answer["state"]["memory"].split((4, 4, 1, 1, 1), -1)
    places = [(12 + step) % 6 for step in range(4)]
    greedy = program.online(before[:, places]).argmax(-1)
    assert torch.equal(action[:, places, 0].long(), greedy)


def test_only_what_was_lived_is_replayed() -> None:
    memory = torch.arange(6.0)[None, :, None].expand(2, 6, 1)
    key = keys(0, 0, torch.arange(2))
    picked = pick(memory, torch.tensor([2, 600]), key, 500)
    assert picked[0].unique().tolist() == [0.0, 1.0]
    assert picked[1].unique().tolist() == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]


@pytest.mark.parametrize("double", [False, True])
def test_the_loss_is_that_of_the_closed_form(double: bool) -> None:
    program = built(double=double)
    answer, batch = lived(program, 3)
    answer["state"]["memory"][:, ::2, 10] = 1.0  # some of them fell
    batch = {**batch, **answer["state"], "key": keys(0, 9, torch.arange(SLOTS))}
    answer = program(batch)
    replayed = pick(answer["state"]["memory"], answer["state"]["acted"], batch["key"], 3)
    expected = 0.0
    for row in replayed.flatten(0, 1):
        state, after, action, reward, fallen = row[:4], row[4:8], int(row[8]), row[9], row[10]
        online, target = program.online(after), program.target(after)
        best = target[online.argmax()] if double else target.max()
        wanted = (reward + (0.0 if fallen else 0.9 * best)).detach()
        error = (program.online(state)[action] - wanted).abs()
        expected = expected + (0.5 * error**2 if error < 1 else error - 0.5)
    assert replayed[..., 10].any()
    torch.testing.assert_close(answer["loss"][0], expected)
    assert answer["loss"][1] == SLOTS * 3
    answer["loss"][0].backward()
    assert program.target.first.weight.grad is None
    wanted = torch.autograd.grad(expected, program.online.first.weight)[0]
    torch.testing.assert_close(program.online.first.weight.grad, wanted)
    assert F.huber_loss(torch.zeros(1), torch.full((1,), 3.0)) == 2.5


def returns(worker: Worker, steps: int, **config: Any) -> list[float]:
    made = train(worker, "dqn", steps, batch=16, config=config, optimizer={"lr": 2e-3, "weight_decay": 0.0})
    return [one["return"] for one in made.terms if "return" in one]


def test_it_learns_to_balance(ranks: Callable[..., list[Any]]) -> None:
    (random,) = ranks(returns, 1, steps=50, explore_for=10**9)
    (learnt,) = ranks(returns, 1, deadline=240, steps=500)
    last = learnt[-len(learnt) // 5 :]
    assert sum(last) / len(last) > 5 * sum(random) / len(random)


def differences(worker: Worker, strategy: str) -> dict[str, float] | None:
    return verify(worker, "dqn", "", {"width": 16, "memory": 8}, "", strategy, {})


@pytest.mark.parametrize("strategy", ["zero3", "zero2_tensor2"])
def test_a_layout_never_changes_the_result(ranks: Callable[..., list[Any]], strategy: str) -> None:
    found = ranks(differences, parse_strategy(strategy).world_size, strategy=strategy)[0]
    assert all(value <= 1e-5 for value in found.values()), found
