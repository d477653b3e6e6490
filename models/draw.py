"""Where do random numbers come from? From a hash of (seed, step, sample, name, element), never from a generator.

So a number is the same on any number of ranks, in any micro-batch and in a recomputed forward; no state is stored.
The hash is 32-bit integer arithmetic, which wraps and agrees bit for bit on every device: an element's position is
multiplied by an odd constant, then two rounds of shift, xor and multiply follow (constants of C. Wellons, "Prospecting
for hash functions", 2018), each with its own half of the sample's 64-bit key, so that no two samples share a
sequence.

B samples of a batch; a key is int32 [B, 2]. `shape` is that of one sample's numbers here, `extent` that of all of them
wherever they are drawn, and `start` says for each dim which ones are here: the first of neighbouring indices, or all
indices as int64 or int32 [size], or as [B, size] where the samples differ.
"""

import math
from collections.abc import Sequence
from zlib import crc32

import torch
from torch import Tensor

Dims = Sequence[int]
Start = Sequence[int | Tensor]


def signed(value: int, bits: int) -> int:
    """The two's complement reading of the lowest `bits` bits."""
    value &= (1 << bits) - 1
    return value - (1 << bits) if value >> (bits - 1) else value


SPREAD = signed(0x9E3779B1, 32)  # 2^32 / golden ratio, prime
ROUNDS = (signed(0x7FEB352D, 32), signed(0x846CA68B, 32))
WEYL64 = 0x9E3779B97F4A7C15
ROUNDS64 = (signed(0xBF58476D1CE4E5B9, 64), signed(0x94D049BB133111EB, 64))


def keys(seed: int, step: int, samples: Tensor) -> Tensor:
    """Key of each sample at a step: int64 [B] global sample ids to int32 [B, 2].

    Any integers will do; each of the three goes through a whole 64-bit mix (splitmix64, Steele et al. 2014).
    """
    state = torch.zeros((), dtype=torch.int64, device=samples.device)
    for word in (seed, step):
        state = _mix64(state + signed(word + WEYL64, 64))
    state = _mix64(state + samples)
    return torch.stack((state >> 32, state), dim=-1).to(torch.int32)


def draw(key: Tensor, name: str, shape: Dims, start: Start | None = None, extent: Dims | None = None) -> Tensor:
    """Uniform numbers in [0, 1), float32 [B, *shape], multiples of 2^-24.

    With start and extent the result is the part of the tensor [B, *extent] that one rank would draw alone: the slice
    `[start : start + shape]`, or the chosen indices of a dim. Tensor, sequence and context parallel layers say so where
    they stand.

    Raises:
        ValueError: the part does not lie in the extent (indices on a GPU are not looked at), or the extent has more
            than 2^31 elements.
    """
    return (hashed(key, name, shape, start, extent) >> 8).to(torch.float32).mul_(2.0**-24).add_(0.5)


def normal(key: Tensor, name: str, shape: Dims, start: Start | None = None, extent: Dims | None = None) -> Tensor:
    """Standard normal numbers, float32 [B, *shape], by Box and Muller (1958); arguments as in `draw`."""
    radius = draw(key, f"{name}/radius", shape, start, extent).neg_().add_(1.0)  # in (0, 1], so the logarithm is finite
    angle = draw(key, f"{name}/angle", shape, start, extent)
    return radius.log_().mul_(-2.0).sqrt_().mul_(angle.mul_(2.0 * math.pi).cos_())


def dropout(
    x: Tensor,
    p: float,
    key: Tensor | None,
    name: str,
    start: Start | None = None,
    extent: Dims | None = None,
) -> Tensor:
    """x [B, ...] with each element zeroed with probability p and the others divided by 1 - p (Srivastava et al. 2014).

    start and extent as in `draw`. Backward keeps one byte an element.

    Raises:
        ValueError: p is no probability below 1, there is no key, or the slice is wrong.
    """
    if not 0.0 <= p < 1.0:
        raise ValueError(f"dropout probability p={p} of {name!r} is not in [0, 1)")
    if p == 0.0:
        return x
    if key is None:
        raise ValueError(f'dropout {name!r} needs the random key of each sample: give the batch its "key" [B, 2]')
    kept = hashed(key, name, x.shape[1:], start, extent) >= round(p * 2**32) - 2**31
    return (x * kept).mul_(1.0 / (1.0 - p))


def integers(key: Tensor, name: str, shape: Dims, low: int, high: int) -> Tensor:
    """Whole numbers from low to high - 1, int64 [B, *shape]; none is more than (high - low) / 2^32 too frequent.

    Raises:
        ValueError: there are none, or more than 2^31.
    """
    if not 0 < high - low <= 2**31:
        raise ValueError(f"integers {name!r} from {low} to {high - 1}: expected at least 1 and at most 2^31 of them")
    return ((hashed(key, name, shape).long() + 2**31) * (high - low) >> 32) + low


def bernoulli(
    key: Tensor, name: str, p: Tensor | float, shape: Dims, start: Start | None = None, extent: Dims | None = None
) -> Tensor:
    """True with probability p (one number, or a tensor that broadcasts), bool [B, *shape]; the rest as in `draw`."""
    return draw(key, name, shape, start, extent) < p


def permutation(key: Tensor, name: str, size: int) -> Tensor:
    """An order of `size` things for each sample, int64 [B, size]; its first n are a choice without repetition."""
    return hashed(key, name, (size,)).argsort(-1)  # no two elements of a sample have the same bits


def categorical(
    key: Tensor, name: str, logits: Tensor, start: Start | None = None, extent: Dims | None = None
) -> Tensor:
    """A class of each row of logits [B, ..., C], int64 [B, ...], with the softmax as probabilities.

    By the largest logit plus Gumbel noise (E. J. Gumbel, 1954). start and extent as in `draw`, the dim of the classes
    included.
    """
    uniform = draw(key, name, logits.shape[1:], start, extent).clamp_(min=2.0**-25)  # in (0, 1): finite logarithms
    return (logits - uniform.log_().neg_().log_()).argmax(-1)


def hashed(key: Tensor, name: str, shape: Dims, start: Start | None = None, extent: Dims | None = None) -> Tensor:
    """The 32 random bits of each element, int32 [B, *shape]; arguments and errors as in `draw`."""
    if torch.compiler.is_compiling():
        return _operator(key, name, shape, start or (), extent or ())
    first, second = _stream(key, name, len(shape))
    x = _positions(shape, start, extent, key.device).mul_(SPREAD) + first
    x ^= _right(x, 16)
    x = torch.add(second, x, alpha=ROUNDS[0])
    x ^= _right(x, 15)
    x *= ROUNDS[1]
    return x.bitwise_xor_(_right(x, 16))


def _operator(key: Tensor, name: str, shape: Dims, start: Start, extent: Dims) -> Tensor:
    """`hashed` as one operator of a compiled graph, which models/draw_operator.py registers."""
    numbers = [-1 if isinstance(first, Tensor) else first for first in start]
    indices = [first for first in start if isinstance(first, Tensor)]
    result: Tensor = torch.ops.shardwright.hashed(key, name, tuple(shape), numbers, indices, tuple(extent))
    return result


def _stream(key: Tensor, name: str, dims: int) -> tuple[Tensor, Tensor]:
    """The two words that set a named stream of each sample apart, int32 [B, 1, ...] each."""
    words = key + signed(crc32(name.encode()), 32)
    for shift, factor in zip((16, 15), ROUNDS, strict=True):
        words = (words ^ _right(words, shift)) * factor
    words = (words ^ _right(words, 16)).view(-1, 2, *[1] * dims)
    return words[:, 0], words[:, 1]


def _positions(shape: Dims, start: Start | None, extent: Dims | None, device: torch.device) -> Tensor:
    """Row-major position of each element in the whole tensor, int32 [*shape], or [1 or B, *shape] of a part."""
    shape = tuple(shape)
    extent = shape if extent is None else tuple(extent)
    start = (0,) * len(shape) if start is None else tuple(start)
    _check_part(shape, start, extent)
    if shape == extent and not any(isinstance(first, Tensor) for first in start):
        return torch.arange(math.prod(shape), dtype=torch.int32, device=device).view(shape)
    whole = torch.zeros(1, *[1] * len(shape), dtype=torch.int32, device=device)
    for dim, (size, first) in enumerate(zip(shape, start, strict=True)):
        places = _places(first, size, device) * math.prod(extent[dim + 1 :])
        whole = whole + places.view(len(places), *[1] * dim, size, *[1] * (len(shape) - dim - 1))
    return whole


def _places(first: int | Tensor, size: int, device: torch.device) -> Tensor:
    """The indices of a dim that are here, int32 [1 or B, size]."""
    if isinstance(first, Tensor):
        return first.to(torch.int32) if first.dim() == 2 else first.to(torch.int32)[None]
    return torch.arange(first, first + size, dtype=torch.int32, device=device)[None]


def _check_part(shape: tuple[int, ...], start: tuple[int | Tensor, ...], extent: tuple[int, ...]) -> None:
    if not len(shape) == len(start) == len(extent):
        raise ValueError(f"shape {shape}, start {_words(start)} and extent {extent} differ in their number of dims")
    if not all(_lies_in(first, size, high) for first, size, high in zip(start, shape, extent, strict=True)):
        raise ValueError(f"the part of shape {shape} at {_words(start)} does not lie in the extent {extent}")
    if math.prod(extent) > 2**31:
        raise ValueError(f"the extent {extent} has more than 2^31 elements a sample; draw it in named parts")


def _lies_in(first: int | Tensor, size: int, high: int) -> bool:
    """Whether some places of a dim are inside it; the values of indices are read where that costs no waiting."""
    if not isinstance(first, Tensor):
        return first >= 0 and first + size <= high
    if first.dim() not in (1, 2) or first.shape[-1] != size:
        return False
    if first.device.type != "cpu" or torch.compiler.is_compiling() or not size:
        return True
    return bool(first.min() >= 0) and bool(first.max() < high)


def _words(start: tuple[int | Tensor, ...]) -> tuple[int | str, ...]:
    return tuple(f"indices {list(first.shape)}" if isinstance(first, Tensor) else first for first in start)


def _mix64(x: Tensor) -> Tensor:
    """A bijection of 64-bit words in which every input bit flips each output bit with probability one half."""
    x = (x ^ _right(x, 30)) * ROUNDS64[0]
    x = (x ^ _right(x, 27)) * ROUNDS64[1]
    return x ^ _right(x, 31)


def _right(x: Tensor, shift: int) -> Tensor:
    """x shifted right with zeros coming in; torch's own shift repeats the sign."""
    return (x >> shift).bitwise_and_((1 << (8 * x.itemsize - shift)) - 1)
