"""Steps, shares and micro-batches divide as stated."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from shardwright.trainers.options import TrainOptions
from shardwright.trainers.portions import count_micro_batches, divisors, settle, share, total_steps


@given(st.integers(1, 10**6), st.integers(1, 512), st.integers(1, 64))
def test_tokens_are_rounded_up_to_whole_steps(tokens: int, length: int, batch: int) -> None:
    steps = total_steps(TrainOptions(tokens=tokens, global_batch=batch), samples=1000, tokens=length)
    assert (steps - 1) * batch * length < tokens <= steps * batch * length


def test_epochs_count_the_training_set() -> None:
    assert total_steps(TrainOptions(epochs=2.5, global_batch=10), samples=99, tokens=None) == 25


def test_exactly_one_length() -> None:
    with pytest.raises(ValueError, match="exactly one of"):
        total_steps(TrainOptions(), samples=10, tokens=1)
    with pytest.raises(ValueError, match="exactly one of"):
        total_steps(TrainOptions(steps=1, tokens=1), samples=10, tokens=1)


def test_what_does_not_divide_is_refused() -> None:
    assert share(12, 4) == 3
    with pytest.raises(ValueError, match="no multiple of the 5 data ranks"):
        share(12, 5)
    assert count_micro_batches(12, 4) == 3
    with pytest.raises(ValueError, match=r"legal: 1, 2, 3, 4, 6, 12"):
        count_micro_batches(12, 5)


@given(st.integers(1, 200), st.integers(1, 300), st.integers(1, 300))
def test_the_largest_that_fits_is_settled_on(of_rank: int, start: int, most: int) -> None:
    tried: list[int] = []

    def fits(size: int) -> bool:
        tried.append(size)
        return size <= most

    found = settle(of_rank, start, fits)
    assert found == max(size for size in divisors(of_rank) if size <= min(start, most))
    assert tried == sorted(tried, reverse=True)


def test_nothing_fits() -> None:
    with pytest.raises(MemoryError, match="not even a micro-batch of one sample"):
        settle(8, 8, lambda size: False)
