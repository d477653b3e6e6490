"""Are the drawn numbers random, and the same wherever they are drawn?

Quality is a set of checks of any hash (key [B, 2], name, shape) -> 32 bits an element. Each gives the largest deviation
that it sees from independent fair bits, in standard deviations; weak hashes are planted to show that it sees them.
"""

from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from shardwright.models.draw import (
    bernoulli,
    categorical,
    draw,
    dropout,
    hashed,
    integers,
    keys,
    normal,
    permutation,
)
from torch import Tensor

COUNT = 2**20
SIGMAS = 5.0  # the inputs are fixed, so a test that passes once passes always
Hash = Callable[[Tensor, str, tuple[int, ...]], Tensor]


def one_key(seed: int = 3, step: int = 7, sample: int = 11) -> Tensor:
    return keys(seed, step, torch.tensor([sample]))


def set_bits(words: Tensor) -> Tensor:
    """How often each bit is set, float64 [32], in int32 [...]."""
    octets = words.contiguous().numpy().reshape(-1, 1).view(np.uint8)
    return torch.from_numpy(np.unpackbits(octets, axis=1).sum(0, dtype=np.int64)).double()


def unit(words: Tensor) -> Tensor:
    """int32 to [0, 1), by its high bits."""
    return (words >> 8).to(torch.float32) * 2.0**-24 + 0.5


def correlation(first: Tensor, second: Tensor) -> float:
    """Of two uniform samples, in standard deviations of independent ones."""
    return abs(float(((first - 0.5) * (second - 0.5)).mean() * 12 * first.numel() ** 0.5))


def chi_square(cells: Tensor, number: int) -> float:
    """How far the frequencies of cells 0 to number - 1 are from equal, in standard deviations."""
    expected = cells.numel() / number
    value = ((torch.bincount(cells.flatten(), minlength=number) - expected) ** 2 / expected).sum()
    return abs(float((value - (number - 1)) / (2 * (number - 1)) ** 0.5))


def flips(before: Tensor, after: Tensor, pairs: float) -> float:
    """How far from one half is the share of flips of each output bit, given how many of the pairs are independent."""
    share = set_bits(before ^ after) / before.numel()
    return float((share - 0.5).abs().max() / (0.5 / pairs**0.5))


def frequency_of_bits(hash: Hash) -> Iterator[float]:
    words = hash(one_key(), "x", (COUNT,))[0]
    yield flips(words, torch.zeros_like(words), COUNT)


def frequency_of_numbers(hash: Hash) -> Iterator[float]:
    numbers = unit(hash(one_key(), "x", (COUNT,))[0])
    yield chi_square((numbers * 1024).long(), 1024)
    for distance in (1, 2, 3, 64, 128, 1024):
        yield chi_square((numbers[:-distance] * 32).long() * 32 + (numbers[distance:] * 32).long(), 1024)


def correlation_of_neighbours(hash: Hash) -> Iterator[float]:
    words = hash(one_key(), "x", (COUNT,))[0]
    numbers = unit(words)
    for distance in (1, 2, 3, 7, 64, 128, 1024, 4096):
        yield correlation(numbers[:-distance], numbers[distance:])
    for distance in (1, 64):
        yield flips(words[:-distance], words[distance:], COUNT)


def correlation_of_streams(hash: Hash, others: list[tuple[Tensor, str]]) -> Iterator[float]:
    """Of one stream with others, in step and one element behind."""
    words = hash(one_key(), "x", (COUNT,))[0]
    for key, name in others:
        other = hash(key, name, (COUNT,))[0]
        for one, two in ((words, other), (words[1:], other[:-1]), (words[:-1], other[1:])):
            yield correlation(unit(one), unit(two))
            yield flips(one, two, len(one))


def correlation_of_samples(hash: Hash) -> Iterator[float]:
    return correlation_of_streams(hash, [(one_key(sample=sample), "x") for sample in (12, 10, 11 + 2**32)])


def correlation_of_steps_and_seeds(hash: Hash) -> Iterator[float]:
    return correlation_of_streams(hash, [(one_key(step=8), "x"), (one_key(seed=4), "x"), (one_key(7, 3), "x")])


def correlation_of_names(hash: Hash) -> Iterator[float]:
    return correlation_of_streams(hash, [(one_key(), "y"), (one_key(), "x/angle")])


def first_numbers_of_many_samples(hash: Hash) -> Iterator[float]:
    for name in ("x", "blocks.0.mlp.output"):
        first = unit(hash(keys(0, 0, torch.arange(COUNT)), name, (2,)))
        yield chi_square((first[:, 0] * 1024).long(), 1024)
        yield chi_square((first[:, 0] * 32).long() * 32 + (first[:, 1] * 32).long(), 1024)
        yield correlation(first[:-1, 0], first[1:, 0])


def avalanche_of_the_sample(hash: Hash) -> Iterator[float]:
    samples = torch.arange(2**14)
    before = hash(keys(5, 9, samples), "x", ())
    for bit in range(63):
        yield flips(before, hash(keys(5, 9, samples ^ (1 << bit)), "x", ()), 2**13)  # a pair may stand twice


def avalanche_of_seed_and_step(hash: Hash) -> Iterator[float]:
    samples = torch.arange(2**14)
    before = hash(keys(5, 9, samples), "x", ())
    for bit in range(63):
        yield flips(before, hash(keys(5 ^ (1 << bit), 9, samples), "x", ()), 2**14)
        yield flips(before, hash(keys(5, 9 ^ (1 << bit), samples), "x", ()), 2**14)


def avalanche_of_the_key(hash: Hash) -> Iterator[float]:
    whole = keys(5, 9, torch.arange(2**14))
    before = hash(whole, "x", ())
    for word in (0, 1):
        for bit in range(32):
            flipped = whole.clone()
            flipped[:, word] ^= (1 << bit) - (1 << 32 if bit == 31 else 0)
            yield flips(before, hash(flipped, "x", ()), 2**14)


def avalanche_of_the_name(hash: Hash) -> Iterator[float]:
    whole = keys(5, 9, torch.arange(2**14))
    name = "blocks.0.mlp"
    before = hash(whole, name, ())
    for place in range(len(name)):
        for bit in range(6):
            other = name[:place] + chr(ord(name[place]) ^ (1 << bit)) + name[place + 1 :]
            yield flips(before, hash(whole, other, ()), 2**14)


def avalanche_of_the_position(hash: Hash) -> Iterator[float]:
    words = hash(keys(5, 9, torch.arange(64)), "x", (2**14,))
    for bit in range(14):
        yield flips(words, words[:, torch.arange(2**14) ^ (1 << bit)], words.numel() / 2)


CHECKS: dict[str, Callable[[Hash], Iterator[float]]] = {
    check.__name__: check
    for check in (
        frequency_of_bits,
        frequency_of_numbers,
        correlation_of_neighbours,
        correlation_of_samples,
        correlation_of_steps_and_seeds,
        correlation_of_names,
        first_numbers_of_many_samples,
        avalanche_of_the_sample,
        avalanche_of_seed_and_step,
        avalanche_of_the_key,
        avalanche_of_the_name,
        avalanche_of_the_position,
    )
}


@pytest.mark.parametrize("check", CHECKS)
def test_the_bits_are_as_fair_coins(check: str) -> None:
    assert max(CHECKS[check](hashed)) < SIGMAS


def places(shape: tuple[int, ...]) -> Tensor:
    return torch.arange(int(torch.tensor(shape).prod()), dtype=torch.int32).view(shape)


def beside(key: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The first word of each key, ready to be added to positions."""
    return key[:, 0].view(-1, *[1] * len(shape))


def counting(key: Tensor, name: str, shape: tuple[int, ...]) -> Tensor:
    """Positions, moved by the key and spread by one multiplication."""
    return (places(shape) + beside(key, shape) + len(name)) * -1640531535


def half_mixed(key: Tensor, name: str, shape: tuple[int, ...]) -> Tensor:
    """One round of shift, xor and multiply."""
    x = counting(key, name, shape)
    return (x ^ (x >> 16)) * 0x7FEB352D


def shifted(key: Tensor, name: str, shape: tuple[int, ...]) -> Tensor:
    """One sequence for all samples, in which each begins somewhere."""
    return hashed(torch.zeros(1, 2, dtype=torch.int32), name, (COUNT + 64,))[0][places(shape) + beside(key, shape) % 64]


def nameless(key: Tensor, name: str, shape: tuple[int, ...]) -> Tensor:
    return hashed(key, "", shape)


def half_keyed(key: Tensor, name: str, shape: tuple[int, ...]) -> Tensor:
    """The second word of the key is not used."""
    return hashed(key * torch.tensor([1, 0], dtype=torch.int32), name, shape)


def stuck(key: Tensor, name: str, shape: tuple[int, ...]) -> Tensor:
    """One bit of ten is set too often."""
    return hashed(key, name, shape) | ((places(shape) % 10 == 0) << 9).to(torch.int32)


@pytest.mark.parametrize(
    ("weak", "seen_by"),
    [
        (counting, "frequency_of_numbers correlation_of_neighbours avalanche_of_the_key avalanche_of_the_position"),
        (
            half_mixed,
            "correlation_of_neighbours correlation_of_samples correlation_of_steps_and_seeds avalanche_of_the_name",
        ),
        (shifted, "first_numbers_of_many_samples avalanche_of_the_sample avalanche_of_seed_and_step"),
        (nameless, "correlation_of_names avalanche_of_the_name"),
        (half_keyed, "avalanche_of_the_key"),
        (stuck, "frequency_of_bits"),
    ],
)
def test_weak_hashes_are_seen(weak: Hash, seen_by: str) -> None:
    for check in seen_by.split():
        assert max(CHECKS[check](weak)) > SIGMAS, check


def test_samples_that_share_a_sequence_are_seen() -> None:
    def in_step(key: Tensor, name: str, shape: tuple[int, ...]) -> Tensor:
        """Sample 12 draws what sample 11 draws one element later."""
        later = int(torch.equal(key, one_key(sample=12)))
        return hashed(one_key(), name, (shape[0] + 1,))[:, later : shape[0] + later]

    assert max(correlation_of_samples(in_step)) > SIGMAS


def distinct(make: Callable[[int, int, Tensor], Tensor]) -> int:
    """How many keys are distinct among those of 2^20 neighbouring seeds, steps and samples."""
    samples = torch.arange(2**12)
    grid = torch.cat([make(seed, step, samples) for seed in range(16) for step in range(16)])
    return len(((grid[:, 0].long() << 32) + grid[:, 1]).unique())


def test_no_two_of_seed_step_and_sample_share_a_key() -> None:
    assert distinct(keys) == 2**20
    assert distinct(lambda seed, step, samples: torch.stack((samples + step, samples * 0 + seed), -1)) < 2**20


def test_no_two_elements_of_a_sample_share_their_bits() -> None:
    assert hashed(one_key(), "x", (COUNT,)).unique().numel() == COUNT


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


@settings(deadline=None, max_examples=50)
@given(data=st.data(), dims=st.integers(1, 3), batch=st.integers(1, 3))
def test_chosen_indices_agree_with_the_whole(data: st.DataObject, dims: int, batch: int) -> None:
    extent = [data.draw(st.integers(1, 6)) for _ in range(dims)]
    chosen = [data.draw(st.lists(st.integers(0, size - 1), max_size=7)) for size in extent]
    dtype = data.draw(st.sampled_from([torch.int64, torch.int32]))
    start, shape = [torch.tensor(each, dtype=dtype) for each in chosen], [len(each) for each in chosen]
    key = keys(0, 1, torch.arange(batch) * 5)
    for function in (draw, normal, hashed):
        whole = function(key, "w", extent)
        for dim, index in enumerate(start):
            whole = whole.index_select(dim + 1, index)
        assert torch.equal(function(key, "w", shape, start, extent), whole)


def test_a_rank_of_context_and_tensor_axes_draws_its_part() -> None:
    """Two chunks of the tokens, as causal load balance deals them, and the second half of the features."""
    key, x = keys(0, 1, torch.arange(2)), torch.ones(2, 8, 6)
    tokens = torch.tensor([0, 1, 6, 7])
    whole = dropout(x, 0.5, key, "w")[:, tokens, 3:]
    assert torch.equal(dropout(x[:, tokens, 3:], 0.5, key, "w", (tokens, 3), (8, 6)), whole)
    assert torch.equal(bernoulli(key, "w", 0.5, (4, 3), (tokens, 3), (8, 6)), whole == 0)
    logits = torch.randn(2, 8, 6, generator=torch.Generator().manual_seed(0))
    part = categorical(key, "c", logits[:, tokens], (tokens, 0), (8, 6))
    assert torch.equal(part, categorical(key, "c", logits)[:, tokens])


def test_indices_may_differ_between_samples() -> None:
    key, tokens = keys(0, 1, torch.arange(2)), torch.tensor([[0, 3], [2, 1]])
    part = draw(key, "w", (2, 5), (tokens, 0), (4, 5))
    whole = draw(key, "w", (4, 5))
    assert torch.equal(part, torch.stack([whole[0, tokens[0]], whole[1, tokens[1]]]))


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
    for places in (torch.tensor([0, 4]), torch.tensor([-1, 0]), torch.tensor([0, 1, 2]), torch.tensor(1)):
        with pytest.raises(ValueError, match=r"shape \(2, 3\) at \('indices .*', 0\) does not lie in the extent"):
            draw(key, "w", (2, 3), (places, 0), (4, 3))


def test_normal_numbers_have_the_moments_and_tails_of_a_normal() -> None:
    x = normal(one_key(), "w", (COUNT,))[0].double()
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


def test_integers_come_equally_often_and_reach_both_ends() -> None:
    found = integers(one_key(), "w", (COUNT,), -3, 97)[0]
    assert found.dtype == torch.int64 and (int(found.min()), int(found.max())) == (-3, 96)
    assert chi_square(found + 3, 100) < SIGMAS
    wide = integers(one_key(), "w", (COUNT,), 0, 2**31)
    assert wide.min() >= 0 and wide.max() < 2**31 and chi_square(wide >> 21, 1024) < SIGMAS
    with pytest.raises(ValueError, match="integers 'w' from 5 to 4"):
        integers(one_key(), "w", (2,), 5, 5)


def test_bernoulli_takes_one_probability_or_many() -> None:
    p = torch.tensor([0.0, 0.1, 0.5, 1.0])
    share = bernoulli(one_key(), "w", p, (2**16, 4))[0].double().mean(0)
    assert ((share - p).abs() <= SIGMAS * (p * (1 - p) / 2**16).sqrt()).all()
    assert torch.equal(bernoulli(one_key(), "w", 0.1, (9,)), draw(one_key(), "w", (9,)) < 0.1)


def test_every_permutation_comes_equally_often() -> None:
    found = permutation(keys(0, 0, torch.arange(2**14)), "w", 4)
    assert torch.equal(found.sort(-1).values, torch.arange(4).expand(2**14, 4))
    names, number = (found * torch.tensor([64, 16, 4, 1])).sum(-1).unique(return_inverse=True)
    assert len(names) == 24 and chi_square(number, 24) < SIGMAS


def test_classes_come_as_often_as_their_softmax_says() -> None:
    logits = torch.tensor([0.0, 1.0, -2.0, float("-inf"), 3.0])
    found = categorical(keys(0, 0, torch.arange(4)), "w", logits.expand(4, 2**16, 5))
    share = torch.bincount(found.flatten(), minlength=5) / found.numel()
    p = logits.softmax(-1)
    assert found.shape == (4, 2**16)
    assert ((share - p).abs() <= SIGMAS * (p * (1 - p) / found.numel()).sqrt()).all()
