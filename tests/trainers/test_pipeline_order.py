"""Every micro-batch goes forward and backward once, in an order that the ranks can follow without waiting for ever."""

from itertools import combinations
from math import ceil

import pytest
from hypothesis import given
from hypothesis import strategies as st
from shardwright.trainers.pipeline_order import SCHEDULES, Action, Schedule, cut, interleaved

names = st.sampled_from(sorted(SCHEDULES))
degrees = st.integers(1, 6)
counts = st.integers(1, 14)


def held(schedule: Schedule, rank: int, ranks: int, micro_batches: int) -> int:
    """The most pairs of chunk and micro-batch that wait for the end of their backward at once, forward included."""
    now = most = 0
    for action in schedule.order(rank, ranks, micro_batches):
        now += {"F": 1, "B": 0 if schedule.split else -1, "W": -1}[action.kind]
        most = max(most, now)
    return most


@given(names, degrees, counts)
def test_each_action_once_and_in_order(name: str, ranks: int, micro_batches: int) -> None:
    schedule = SCHEDULES[name]
    kinds = "FBW" if schedule.split else "FB"
    for rank in range(ranks):
        actions = list(schedule.order(rank, ranks, micro_batches))
        assert sorted(actions) == sorted(
            Action(kind, i, chunk) for kind in kinds for i in range(micro_batches) for chunk in range(schedule.chunks)
        )
        places = {action: index for index, action in enumerate(actions)}
        for chunk in range(schedule.chunks):
            for kind in kinds:  # messages are matched by their order
                assert [a.micro_batch for a in actions if a.kind == kind and a.chunk == chunk] == [
                    *range(micro_batches)
                ]
            for i in range(micro_batches):
                order = [places[Action(kind, i, chunk)] for kind in kinds]
                assert order == sorted(order)


@given(names, degrees)
def test_every_virtual_stage_has_one_place(name: str, ranks: int) -> None:
    schedule = SCHEDULES[name]
    stages = [schedule.stage(rank, ranks, chunk) for rank in range(ranks) for chunk in range(schedule.chunks)]
    assert sorted(stages) == list(range(ranks * schedule.chunks))
    for stage in stages:
        rank, chunk = schedule.place(stage, ranks)
        assert schedule.stage(rank, ranks, chunk) == stage


def test_the_v_of_zbv() -> None:
    assert [SCHEDULES["zbv"].place(stage, 3) for stage in range(6)] == [(0, 0), (1, 0), (2, 0), (2, 1), (1, 1), (0, 1)]
    assert [SCHEDULES["interleaved"].place(stage, 3)[0] for stage in range(6)] == [0, 1, 2, 0, 1, 2]


@given(degrees, counts)
def test_how_much_waits_on_a_rank(ranks: int, micro_batches: int) -> None:
    """In shares of a rank's part of the model: gpipe all, 1F1B and ZBV as many micro-batches as there are ranks."""
    for rank in range(ranks):
        assert held(SCHEDULES["gpipe"], rank, ranks, micro_batches) == micro_batches
        assert held(SCHEDULES["1f1b"], rank, ranks, micro_batches) == min(micro_batches, ranks - rank)
        assert held(SCHEDULES["zbv"], rank, ranks, micro_batches) <= min(2 * micro_batches, 2 * ranks)


@given(degrees, counts, st.integers(2, 4))
def test_how_much_waits_on_a_rank_with_several_chunks(ranks: int, micro_batches: int, chunks: int) -> None:
    """p + (p - 1) / v whole micro-batches at most (Narayanan et al. 2021: 1 + (p - 1) / (p v) of 1F1B's)."""
    schedule = Schedule(lambda *place: interleaved(*place, chunks=chunks), chunks=chunks)
    for rank in range(ranks):
        most = 2 * (ranks - 1 - rank) + (chunks - 1) * ranks + 1
        assert held(schedule, rank, ranks, micro_batches) <= min(most, micro_batches * chunks)
        if micro_batches >= 2 * ranks:
            assert held(schedule, rank, ranks, ranks * ceil(micro_batches / ranks)) == most


def test_names_in_a_trace() -> None:
    assert [Action("F", 3).label, Action("B", 3, 1).label] == ["F3", "B3.1"]


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
