"""Does the global order hold every sample once an epoch, the same for all who ask?"""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from shardwright.trainers.data.order import InTurn, Order

PINNED_FEW = [707, 558, 247, 975, 987, 841]
PINNED_MANY = [2247, 3125, 3716, 4100, 3522, 468]
sizes = st.integers(1, 3000)
seeds = st.integers(0, 2**70)


@given(size=sizes, seed=seeds, epoch=st.integers(0, 10**9))
def test_every_epoch_is_a_permutation(size: int, seed: int, epoch: int) -> None:
    found = Order(size, seed).samples(epoch * size, size)
    assert found.dtype == np.int64
    assert np.array_equal(np.sort(found), np.arange(size))


def test_every_small_size_is_a_permutation() -> None:
    for size in range(1, 300):
        assert np.array_equal(np.sort(Order(size, 1).samples(0, size)), np.arange(size))


@given(size=st.integers(10**9, 10**12), seed=seeds, position=st.integers(0, 10**15))
def test_large_sizes_give_distinct_samples_in_range(size: int, seed: int, position: int) -> None:
    position -= position % size
    found = Order(size, seed).samples(position, 500)
    assert len(np.unique(found)) == 500
    assert 0 <= found.min() <= found.max() < size


@given(size=sizes, seed=seeds, start=st.integers(0, 10**6), counts=st.lists(st.integers(0, 50), max_size=8))
def test_slices_agree_with_the_whole_across_epoch_ends(size: int, seed: int, start: int, counts: list[int]) -> None:
    order = Order(size, seed)
    whole = order.samples(start, sum(counts))
    edges = np.cumsum([start, *counts])
    parts = [order.samples(int(edge), count) for edge, count in zip(edges, counts, strict=False)]
    assert np.array_equal(whole, np.concatenate([np.empty(0, np.int64), *parts]))


def test_a_batch_over_an_epoch_end_is_the_end_and_the_next_start() -> None:
    order = Order(10, 4)
    assert order.samples(7, 6).tolist() == [*order.samples(0, 10)[7:], *order.samples(10, 10)[:3]]


def test_epochs_and_seeds_differ() -> None:
    seen = {tuple(Order(50, seed).samples(epoch * 50, 50)) for seed in range(20) for epoch in range(20)}
    assert len(seen) == 400


def test_the_order_is_pinned() -> None:
    """A change here would change what a resumed run reads."""
    assert Order(1000, 7).samples(998, 6).tolist() == PINNED_FEW
    assert Order(5000, 7).samples(4998, 6).tolist() == PINNED_MANY


@pytest.mark.parametrize("size", [2, 3, 5, 6, 7, 16, 17, 30])
def test_places_and_followers_are_uniform(size: int) -> None:
    """Chi-square of (place, sample) and of (sample, next sample) over 40,000 epochs; 6 sigma of its distribution."""
    epochs = 40_000
    table = Order(size, 11).samples(0, size * epochs).reshape(epochs, size)
    places = np.zeros((size, size))
    np.add.at(places, (np.broadcast_to(np.arange(size), table.shape), table), 1)
    assert _excess(places, epochs / size, (size - 1) ** 2) < 6
    followers = np.zeros((size, size))
    np.add.at(followers, (table[:, :-1], table[:, 1:]), 1)
    off_diagonal = followers[~np.eye(size, dtype=bool)]
    assert _excess(off_diagonal, epochs / size, size * (size - 1)) < 6


def _excess(counts: np.ndarray, expected: float, freedom: int) -> float:
    """How many standard deviations chi-square lies above its mean."""
    chi = float(((counts - expected) ** 2 / expected).sum())
    return (chi - freedom) / (2 * freedom) ** 0.5


def test_all_orders_of_five_occur_equally_often() -> None:
    table = Order(5, 2).samples(0, 5 * 120_000).reshape(-1, 5)
    _, counts = np.unique(table, axis=0, return_counts=True)
    assert len(counts) == 120
    assert _excess(counts, 1000, 119) < 6


def test_neighbours_in_the_order_are_not_neighbours_in_the_data() -> None:
    found = Order(100_000, 0).samples(0, 100_000)
    steps = np.abs(np.diff(found))
    assert abs(steps.mean() - 100_000 / 3) < 500
    assert abs(np.corrcoef(found[:-1], found[1:])[0, 1]) < 0.02


def test_in_turn_starts_again() -> None:
    assert InTurn(3).samples(2, 5).tolist() == [2, 0, 1, 2, 0]


@pytest.mark.parametrize(("size", "seed"), [(0, 0), (5, -1)])
def test_refused(size: int, seed: int) -> None:
    with pytest.raises(ValueError, match=r"at least one sample|not negative"):
        Order(size, seed)
