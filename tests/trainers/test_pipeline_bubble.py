"""How long ranks wait follows from the schedule's own order; no order makes them wait for ever."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from shardwright.trainers.pipeline_bubble import Durations, bubble, simulate
from shardwright.trainers.pipeline_order import SCHEDULES, Action, Schedule, interleaved

names = st.sampled_from(sorted(SCHEDULES))
degrees = st.integers(2, 6)
counts = st.integers(1, 14)
times = st.builds(Durations, *[st.sampled_from([0.5, 1.0, 2.0, 4.0])] * 3)


def classic(ranks: int, micro_batches: int) -> float:
    return (ranks - 1) / (micro_batches + ranks - 1)


@given(names, degrees, counts, times)
def test_ranks_never_wait_for_ever_nor_for_nothing(name: str, ranks: int, count: int, durations: Durations) -> None:
    """Each action starts when its rank is free and what it needs is there, and not before."""
    schedule = SCHEDULES[name]
    spans = simulate(schedule, ranks, count, durations)
    ends = {(s.action.kind, s.action.micro_batch, schedule.stage(r, ranks, s.action.chunk)): s.end
            for r, rank in enumerate(spans) for s in rank}  # fmt: skip
    for r, rank in enumerate(spans):
        assert [span.action for span in rank] == list(schedule.order(r, ranks, count))
        for before, span in zip([None, *rank], rank, strict=False):
            kind, i, chunk = span.action
            stage = schedule.stage(r, ranks, chunk)
            needs = {"F": ("F", i, stage - 1), "B": ("B", i, stage + 1), "W": ("B", i, stage)}[kind]
            assert span.start == max(before.end if before else 0.0, ends.get(needs, 0.0))


@given(st.sampled_from(["gpipe", "1f1b"]), degrees, counts, times)
def test_the_bubble_of_one_chunk_is_the_papers(name: str, ranks: int, count: int, durations: Durations) -> None:
    assert bubble(simulate(SCHEDULES[name], ranks, count, durations)) == pytest.approx(classic(ranks, count))


@given(degrees, st.integers(1, 3), st.integers(2, 4), times)
def test_interleaving_divides_the_bubble(ranks: int, rounds: int, chunks: int, durations: Durations) -> None:
    """Narayanan et al. 2021, section 2.2.2: (p - 1) / (v m) of the work, where m is a multiple of p."""
    schedule = Schedule(lambda *place: interleaved(*place, chunks=chunks), chunks=chunks)
    count = rounds * ranks
    found = bubble(simulate(schedule, ranks, count, durations))
    assert found == pytest.approx((ranks - 1) / (chunks * count + ranks - 1))


@given(degrees, st.integers(0, 8))
def test_the_bubble_of_zbv_is_a_sixth(ranks: int, more: int) -> None:
    """With equal times of F, B and W and enough micro-batches, only the way to the last rank is waited for."""
    count = 2 * ranks - 1 + more
    assert bubble(simulate(SCHEDULES["zbv"], ranks, count)) == pytest.approx((ranks - 1) / (6 * count + ranks - 1))


@given(degrees, counts, times)
def test_several_chunks_wait_less(ranks: int, count: int, durations: Durations) -> None:
    """A single micro-batch cannot be overlapped with another, only its weights' gradients with their way back."""
    found = bubble(simulate(SCHEDULES["interleaved"], ranks, count, durations))
    assert found < classic(ranks, count) or (count == 1 and found == pytest.approx(classic(ranks, count)))


@given(degrees, counts)
def test_zbv_waits_less(ranks: int, count: int) -> None:
    assert bubble(simulate(SCHEDULES["zbv"], ranks, count)) < classic(ranks, count)


def test_an_order_that_deadlocks_is_told() -> None:
    backward_first = Schedule(lambda rank, ranks, count: iter([Action("B", 0), Action("F", 0)]))
    with pytest.raises(ValueError, match=r"a deadlock: the ranks wait at \['B0', 'B0'\]"):
        simulate(backward_first, 2, 1)
