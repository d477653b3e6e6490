"""Which sample stands at which position of the run? A keyed permutation of every epoch, with random access.

Invariant: the answer depends on (seed, size, position) alone, never on how many workers ask or where they resume.

The permutation is the generalised Feistel cipher of Black and Rogaway, "Ciphers with Arbitrary Finite Domains" (2002):
an index is written as (left, right) in a rectangle of about sqrt(size) x sqrt(size); each round adds a keyed hash of
one half to the other. The rectangle exceeds the size by less than one row, so walking its few surplus cells along
the cycle is rare.
"""

from dataclasses import dataclass, field
from math import isqrt

import numpy as np
from numpy.typing import NDArray

Positions = NDArray[np.int64]
Words = NDArray[np.uint64]

ROUNDS = 8
FEW = 1024  # below this many samples halves are too short to mix in 8 rounds: pairs are visibly uneven up to about 50
ROUNDS_OF_FEW = 24
GOLDEN = 0x9E3779B97F4A7C15  # 2^64 / golden ratio: the increment of SplitMix64


@dataclass(frozen=True)
class Order:
    """A new permutation of `size` samples in every epoch; positions count on through the epochs.

    Raises:
        ValueError: there are no samples, or the seed is negative.
    """

    size: int
    seed: int
    rows: int = field(init=False)
    columns: int = field(init=False)
    rounds: int = field(init=False)

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"an order needs at least one sample, got {self.size}")
        if self.seed < 0:
            raise ValueError(f"a seed is not negative, got {self.seed}")
        columns = isqrt(self.size - 1) + 1
        object.__setattr__(self, "columns", columns)
        object.__setattr__(self, "rows", -(-self.size // columns))
        object.__setattr__(self, "rounds", ROUNDS if self.size >= FEW else ROUNDS_OF_FEW)

    def samples(self, position: int, count: int) -> Positions:
        """Data-set indices at the global positions [position, position + count), int64 [count]."""
        epoch, index = np.divmod(_positions(position, count), self.size)
        keys = self._keys(epoch)
        found = self._permute(index.astype(np.uint64), keys)
        outside = np.flatnonzero(found >= self.size)
        while outside.size:
            found[outside] = self._permute(found[outside], keys[:, outside])
            outside = outside[found[outside] >= self.size]
        return found.astype(np.int64)

    def _keys(self, epoch: Positions) -> Words:
        """One word for each round and position, [rounds, count]."""
        if not epoch.size:
            return np.empty((self.rounds, 0), np.uint64)
        epochs = np.arange(epoch[0], epoch[-1] + 1, dtype=np.uint64)
        start = _mix(np.array([self.seed % 2**64], np.uint64) + np.uint64(GOLDEN))
        rounds = np.arange(1, self.rounds + 1, dtype=np.uint64)[:, None] * np.uint64(GOLDEN)
        return _mix(_mix(start + epochs) + rounds)[:, epoch - epoch[0]]

    def _permute(self, index: Words, keys: Words) -> Words:
        left, right = np.divmod(index, np.uint64(self.columns))
        for number in range(0, self.rounds, 2):
            left = (left + _mix(right ^ keys[number]) % np.uint64(self.rows)) % np.uint64(self.rows)
            right = (right + _mix(left ^ keys[number + 1]) % np.uint64(self.columns)) % np.uint64(self.columns)
        return left * np.uint64(self.columns) + right


@dataclass(frozen=True)
class InTurn:
    """One sample after the other, from the front again after the last: the order of held-out data."""

    size: int

    def samples(self, position: int, count: int) -> Positions:
        """Data-set indices at the global positions [position, position + count), int64 [count]."""
        return _positions(position, count) % self.size


@dataclass(frozen=True)
class Lanes:
    """Each slot of a global batch reads consecutive samples: the order of data whose state is carried on.

    Slot i of `slots` reads the samples from i * turns on, one a step, and from its first again after `turns` steps.

    Raises:
        ValueError: there are fewer samples than slots.
    """

    size: int
    slots: int

    def __post_init__(self) -> None:
        if self.size < self.slots:
            raise ValueError(f"{self.slots} slots cannot each read samples of their own from {self.size}")

    @property
    def turns(self) -> int:
        """Samples of each slot; the few that are left over are not read."""
        return self.size // self.slots

    def samples(self, position: int, count: int) -> Positions:
        """Data-set indices at the global positions [position, position + count), int64 [count]."""
        turn, slot = np.divmod(_positions(position, count), self.slots)
        found: Positions = slot * self.turns + turn % self.turns
        return found


def _positions(position: int, count: int) -> Positions:
    return np.arange(position, position + count, dtype=np.int64)


def _mix(words: Words) -> Words:
    """The finaliser of SplitMix64 (Steele, Lea, Flood, 2014): a bijection in which every bit moves every other."""
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))
