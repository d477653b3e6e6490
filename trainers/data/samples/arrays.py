"""What is a data set that lies in memory? Named arrays whose first dim is the sample, and a held-out side like it."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


@dataclass(frozen=True)
class Samples:
    """A map-style data set: item i is row i of every array.

    Raises:
        ValueError: the arrays differ in their number of rows, or the held-out side in its names or shapes.
    """

    arrays: Mapping[str, Array]
    held_out: "Samples | None" = None
    classes: int | None = None  # labels are below it

    def __post_init__(self) -> None:
        if len({len(rows) for rows in self.arrays.values()}) != 1:
            sizes = {name: len(rows) for name, rows in self.arrays.items()}
            raise ValueError(f"the arrays of a data set must have one number of rows, got {sizes}")
        if self.held_out is not None and self.held_out.shapes != self.shapes:
            raise ValueError(f"held-out samples have the shapes {self.held_out.shapes}, training ones {self.shapes}")

    def __len__(self) -> int:
        return len(next(iter(self.arrays.values())))

    def __getitem__(self, index: int, /) -> dict[str, Array]:
        return {name: rows[index] for name, rows in self.arrays.items()}

    def fetch(self, indices: NDArray[np.int64]) -> dict[str, Array]:
        """Samples at some indices, each array [B, ...] a copy."""
        return {name: rows[indices] for name, rows in self.arrays.items()}

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name -> shape of one sample's array."""
        return {name: rows.shape[1:] for name, rows in self.arrays.items()}

    @property
    def identity(self) -> str:
        """Hash of both sides' content, 64 hex digits."""
        digest = hashlib.sha256()
        for name, rows in self.arrays.items():
            digest.update(f"{name} {rows.dtype.str} {rows.shape} ".encode())
            digest.update(np.ascontiguousarray(rows).tobytes())
        if self.held_out is not None:
            digest.update(self.held_out.identity.encode())
        return digest.hexdigest()
