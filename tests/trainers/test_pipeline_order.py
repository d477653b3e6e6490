"""Every micro-batch goes forward and backward once, in an order that neighbours can follow without waiting for ever."""

from collections import deque
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from shardwright.trainers.pipeline_order import ORDERS, Action, cut

names = st.sampled_from(sorted(ORDERS))
stages = st.integers(1, 6)
counts = st.integers(1, 12)


@given(names, stages, counts)
def test_each_action_once_and_forward_before_backward(name: str, number: int, micro_batches: int) -> None:
    for stage in range(number):
        actions = list(ORDERS[name](stage, number, micro_batches))
        assert sorted(actions) == sorted(Action(kind, i) for kind in "FB" for i in range(micro_batches))
        for kind in "FB":  # neighbours match messages by their order
            assert [a.micro_batch for a in actions if a.kind == kind] == list(range(micro_batches))
        for i in range(micro_batches):
            assert actions.index(Action("F", i)) < actions.index(Action("B", i))


def ticks(name: str, number: int, micro_batches: int) -> int:
    """Ticks until every stage is done, when each action takes one tick and needs its neighbour's result."""
    queues = [deque(ORDERS[name](stage, number, micro_batches)) for stage in range(number)]
    done: set[tuple[int, Action]] = set()
    tick = 0
    while any(queues):
        ready = [stage for stage, queue in enumerate(queues) if queue and possible(stage, queue[0], number, done)]
        assert ready, "no stage can go on: a deadlock"
        done |= {(stage, queues[stage].popleft()) for stage in ready}
        tick += 1
    return tick


def possible(stage: int, action: Action, number: int, done: set[tuple[int, Action]]) -> bool:
    if action.kind == "F":
        return stage == 0 or (stage - 1, action) in done
    return stage == number - 1 or (stage + 1, action) in done


@given(names, stages, counts)
def test_the_bubble_is_the_papers(name: str, number: int, micro_batches: int) -> None:
    assert ticks(name, number, micro_batches) == 2 * (micro_batches + number - 1)


@given(stages, counts)
def test_1f1b_holds_no_more_activations_than_stages_behind_it(number: int, micro_batches: int) -> None:
    for stage in range(number):
        held = most = 0
        for action in ORDERS["1f1b"](stage, number, micro_batches):
            held += 1 if action.kind == "F" else -1
            most = max(most, held)
        assert most == min(micro_batches, number - stage)


@given(st.lists(st.integers(0, 50), min_size=1, max_size=8), st.integers(1, 5))
def test_the_cut_is_the_best_of_all(weights: list[int], number: int) -> None:
    if number > len(weights):
        with pytest.raises(ValueError, match=f"needs at least {number} units"):
            cut(weights, number)
        return
    parts = cut(weights, number)
    assert [i for part in parts for i in part] == list(range(len(weights)))
    assert all(parts)
    heaviest = max(sum(weights[i] for i in part) for part in parts)
    every = (
        [weights[a:b] for a, b in zip((0, *inner), (*inner, len(weights)), strict=True)]
        for inner in combinations(range(1, len(weights)), number - 1)
    )
    assert heaviest == min(max(map(sum, parts)) for parts in every)
