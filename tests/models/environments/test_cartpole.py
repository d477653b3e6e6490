"""Is the tensor environment gymnasium's CartPole-v1, step by step?"""

import gymnasium
import numpy as np
import torch
from shardwright.models.draw import draw, keys
from shardwright.models.environments.cartpole import CARTPOLE, begin, move

EPISODES = 40


def test_every_step_is_gymnasiums() -> None:
    env = gymnasium.make("CartPole-v1")
    rng, falls = np.random.default_rng(0), 0
    for episode in range(EPISODES):
        env.reset(seed=episode)
        fallen = False
        while not fallen:
            before = torch.tensor(np.array(env.unwrapped.state), dtype=torch.float32)[None]
            action = int(rng.integers(CARTPOLE.actions)) if episode % 2 else episode // 2 % 2
            observation, reward, fallen, _, _ = env.step(action)
            found = move(before, torch.tensor([action]))
            torch.testing.assert_close(found.state[0], torch.tensor(observation))
            assert (found.reward.item(), bool(found.fallen)) == (reward, fallen)
            falls += fallen
    assert falls == EPISODES


def test_carts_do_not_meet() -> None:
    states = begin(draw(keys(0, 0, torch.arange(6)), "begin", (4,)))
    actions = torch.arange(6) % 2
    together = move(states, actions)
    apart = [move(states[i : i + 1], actions[i : i + 1]) for i in range(6)]
    assert torch.equal(together.state, torch.cat([one.state for one in apart]))


def test_episodes_begin_and_end_as_gymnasiums() -> None:
    first = begin(draw(keys(0, 0, torch.arange(10_000)), "begin", (4,)))
    assert first.shape == (10_000, CARTPOLE.numbers)
    assert first.abs().max() <= 0.05
    assert first.std(0).sub(0.1 / 12**0.5).abs().max() < 0.001
    assert gymnasium.spec("CartPole-v1").max_episode_steps == CARTPOLE.limit
