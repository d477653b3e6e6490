"""What does an entry read that makes its samples by acting? The numbers of its slots, and nothing else."""

from typing import Any

from numpy.typing import NDArray


class Slots:
    """A data set of so many slots, whose samples hold no value: the loader adds "sample" and "key"."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __len__(self) -> int:
        return self.number

    def __getitem__(self, index: int, /) -> dict[str, Any]:
        return {}

    def fetch(self, indices: NDArray[Any]) -> dict[str, Any]:
        """No values for any slots."""
        return {}
