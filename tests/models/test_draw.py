"""Are the drawn numbers random, and the same wherever they are drawn?"""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from shardwright.models.draw import draw, dropout, hashed, keys, normal
from torch import Tensor

COUNT = 2**20
SIGMAS = 5.0  # the inputs are fixed, so a test that passes once passes always


def bits(words: Tensor) -> Tensor:
    """int32 [...] to its bits, bool [..., 32]."""
    return (words.unsqueeze(-1) >> torch.arange(32)) & 1 == 1


def correlation(first: Tensor, second: Tensor) -> float:
    """Of two uniform samples, in standard deviations of independent ones."""
    return float(((first - 0.5) * (second - 0.5)).mean() * 12 * first.numel() ** 0.5)


def chi_square(cells: Tensor, number: int) -> float:
    """How far the frequencies of cells 0 to number - 1 are from equal, in standard deviations."""
    expected = cells.numel() / number
    value = ((torch.bincount(cells.flatten(), minlength=number) - expected) ** 2 / expected).sum()
    return float((value - (number - 1)) / (2 * (number - 1)) ** 0.5)


@pytest.fixture(scope="module")
def key() -> Tensor:
    return keys(3, 7, torch.tensor([11]))


def test_each_bit_is_set_half_of_the_time(key: Tensor) -> None:
    share = bits(hashed(key, "x", (COUNT,))[0]).double().mean(0)
    assert (share - 0.5).abs().max() < SIGMAS * 0.5 / COUNT**0.5


def test_numbers_and_pairs_of_neighbours_fill_their_cells_equally(key: Tensor) -> None:
    numbers = draw(key, "x", (COUNT,))[0]
    assert numbers.min() >= 0.0 and numbers.max() < 1.0
    assert abs(chi_square((numbers * 1024).long(), 1024)) < SIGMAS
    for distance in (1, 2, 3, 64, 128, 1024):
        pairs = (numbers[:-distance] * 32).long() * 32 + (numbers[distance:] * 32).long()
        assert abs(chi_square(pairs, 1024)) < SIGMAS, distance


def test_neighbours_samples_steps_seeds_and_names_are_uncorrelated(key: Tensor) -> None:
    numbers = draw(key, "x", (COUNT,))[0]
    for distance in (1, 2, 3, 7, 64, 128, 1024, 4096):
        assert abs(correlation(numbers[:-distance], numbers[distance:])) < SIGMAS, distance
    others = {
        "sample": draw(keys(3, 7, torch.tensor([12])), "x", (COUNT,)),
        "step": draw(keys(3, 8, torch.tensor([11])), "x", (COUNT,)),
        "seed": draw(keys(4, 7, torch.tensor([11])), "x", (COUNT,)),
        "name": draw(key, "y", (COUNT,)),
    }
    for what, other in others.items():
        assert abs(correlation(numbers, other[0])) < SIGMAS, what
        assert abs(correlation(numbers[1:], other[0, :-1])) < SIGMAS, what


def test_no_two_elements_of_a_sample_share_their_bits(key: Tensor) -> None:
    assert hashed(key, "x", (COUNT,)).unique().numel() == COUNT


def test_the_first_numbers_of_many_samples_fill_their_cells_equally() -> None:
    for name in ("x", "blocks.0.mlp.output"):
        first = draw(keys(0, 0, torch.arange(COUNT)), name, (2,))
        assert abs(chi_square((first[:, 0] * 1024).long(), 1024)) < SIGMAS
        assert abs(chi_square((first[:, 0] * 32).long() * 32 + (first[:, 1] * 32).long(), 1024)) < SIGMAS
        assert abs(correlation(first[:-1, 0], first[1:, 0])) < SIGMAS


def test_a_flipped_bit_of_the_sample_id_flips_each_output_bit_half_of_the_time() -> None:
    samples = torch.arange(2**14)
    before = hashed(keys(5, 9, samples), "x", ())
    for bit in range(40):
        after = hashed(keys(5, 9, samples ^ (1 << bit)), "x", ())
        share = bits(before ^ after).double().mean(0)
        assert (share - 0.5).abs().max() < SIGMAS * 0.5 / (samples.numel() / 2) ** 0.5, bit  # each pair stands twice


def test_a_flipped_bit_of_a_key_flips_each_output_bit_half_of_the_time() -> None:
    whole = keys(5, 9, torch.arange(2**14))
    before = hashed(whole, "x", ())
    for word in (0, 1):
        for bit in range(31):
            flipped = whole.clone()
            flipped[:, word] ^= 1 << bit
            share = bits(before ^ hashed(flipped, "x", ())).double().mean(0)
            assert (share - 0.5).abs().max() < SIGMAS * 0.5 / 2**7, (word, bit)


def test_a_flipped_bit_of_the_position_flips_each_output_bit_half_of_the_time() -> None:
    words = hashed(keys(5, 9, torch.arange(64)), "x", (2**14,))
    for bit in range(14):
        other = words[:, torch.arange(2**14) ^ (1 << bit)]
        share = bits((words ^ other)[:, : 2**10]).double().mean((0, 1))
        assert (share - 0.5).abs().max() < 0.02, bit


def test_the_numbers_of_a_version_stay() -> None:
    key = keys(1, 2, torch.tensor([3, -4]))
    assert key.tolist() == PINNED_KEYS
    assert hashed(key, "embed", (2,)).tolist() == PINNED_WORDS


PINNED_KEYS = [[-2121833503, 153986952], [846330542, 483570974]]
PINNED_WORDS = [[-612896838, -1772827663], [2065165011, -558267028]]


@settings(deadline=None, max_examples=50)
@given(data=st.data(), dims=st.integers(0, 4), batch=st.integers(1, 3))
def test_a_slice_agrees_with_the_whole(data: st.DataObject, dims: int, batch: int) -> None:
    extent = [data.draw(st.integers(1, 6)) for _ in range(dims)]
    start = [data.draw(st.integers(0, size - 1)) for size in extent]
    shape = [data.draw(st.integers(1, size - low)) for size, low in zip(extent, start, strict=True)]
    key = keys(0, 1, torch.arange(batch) * 5)
    part = (slice(None), *(slice(low, low + size) for low, size in zip(start, shape, strict=True)))
    for function in (draw, normal, hashed):
        whole = function(key, "w", extent)
        assert whole.shape == (batch, *extent)
        assert torch.equal(function(key, "w", shape, start, extent), whole[part])
    x = torch.ones(batch, *extent)
    kept = dropout(x, 0.5, key, "w")
    assert torch.equal(dropout(x[part], 0.5, key, "w", start, extent), kept[part])


def test_a_sample_draws_the_same_in_any_batch() -> None:
    samples = torch.tensor([8, 2, 5, 2])
    whole = draw(keys(0, 0, samples), "w", (3, 4))
    for place, sample in enumerate(samples):
        assert torch.equal(draw(keys(0, 0, sample[None]), "w", (3, 4))[0], whole[place])


def test_a_wrong_slice_is_refused() -> None:
    key = keys(0, 0, torch.arange(2))
    with pytest.raises(ValueError, match="does not lie in the extent"):
        draw(key, "w", (2, 3), (3, 0), (4, 3))
    with pytest.raises(ValueError, match="number of dims"):
        draw(key, "w", (2, 3), (0,), (4, 3))
    with pytest.raises(ValueError, match="more than 2\\^31"):
        draw(key, "w", (1, 1), (0, 0), (2**16, 2**16))


def test_normal_numbers_have_the_moments_and_tails_of_a_normal(key: Tensor) -> None:
    x = normal(key, "w", (COUNT,))[0].double()
    for power, moment, spread in ((1, 0.0, 1.0), (2, 1.0, 2.0), (3, 0.0, 15.0), (4, 3.0, 96.0)):
        assert abs(float((x**power).mean()) - moment) < SIGMAS * (spread / COUNT) ** 0.5, power
    for border, share in ((1.0, 0.3173105), (2.0, 0.0455003), (3.0, 0.0026998)):
        assert abs(float((x.abs() > border).double().mean()) - share) < SIGMAS * (share / COUNT) ** 0.5, border


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_dropout_keeps_its_share_and_scales_it(p: float) -> None:
    key = keys(0, 0, torch.arange(16))
    x = torch.full((16, 2**14), 2.0, requires_grad=True)
    y = dropout(x, p, key, "w")
    kept = y != 0
    assert abs(float(kept.double().mean()) - (1 - p)) < SIGMAS * (p * (1 - p) / kept.numel()) ** 0.5
    torch.testing.assert_close(y[kept], torch.full_like(y[kept], 2.0 / (1 - p)))
    y.sum().backward()
    torch.testing.assert_close(x.grad, kept * (1 / (1 - p)))


def test_dropout_at_its_limits() -> None:
    x = torch.ones(2, 3)
    assert dropout(x, 0.0, None, "w") is x
    with pytest.raises(ValueError, match='give the batch its "key"'):
        dropout(x, 0.1, None, "w")
    with pytest.raises(ValueError, match=r"p=1.0 of 'w' is not in \[0, 1\)"):
        dropout(x, 1.0, keys(0, 0, torch.arange(2)), "w")
