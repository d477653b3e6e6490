"""Where does each rank sit? One validated value of degrees, and the arithmetic between ranks and coordinates.

Axes from the slowest to the fastest: pipeline, replicate, shard, tensor. Ranks along `replicate` and `shard` read
different data; ranks along `pipeline` and `tensor` share theirs.
"""

import re
from dataclasses import dataclass, replace
from math import prod
from typing import Any

from ..models import catalog
from ..models.entry import Entry
from .options import ParallelOptions

AXES = ("pipeline", "replicate", "shard", "tensor")


@dataclass(frozen=True)
class Place:
    """The coordinates of one rank."""

    pipeline: int
    replicate: int
    shard: int
    tensor: int


@dataclass(frozen=True)
class Layout:
    """Degrees of the mesh, ZeRO stage and pipeline schedule."""

    zero: int = 0
    pipeline: int = 1
    replicate: int = 1
    shard: int = 1
    tensor: int = 1
    schedule: str = "1f1b"

    def __post_init__(self) -> None:
        if any(degree < 1 for degree in self.degrees.values()):
            raise ValueError(f"every degree is at least 1, got {self.factors}")
        if self.zero not in (0, 1, 2, 3):
            raise ValueError(f"zero={self.zero} is not a ZeRO stage (legal: 0, 1, 2, 3)")
        if self.zero == 0 and self.shard > 1:
            raise ValueError(f"shard={self.shard} needs zero = 1, 2 or 3; replicas of the model are parallel.replicate")

    @property
    def degrees(self) -> dict[str, int]:
        """Degree of each axis, slowest first."""
        return {axis: getattr(self, axis) for axis in AXES}

    @property
    def factors(self) -> str:
        """The product in words: "pipeline 2 x replicate 1 x shard 2 x tensor 1"."""
        return " x ".join(f"{axis} {degree}" for axis, degree in self.degrees.items())

    @property
    def world_size(self) -> int:
        """Number of ranks."""
        return self.pipeline * self.data * self.tensor

    @property
    def data(self) -> int:
        """Number of ranks that read different samples."""
        return self.replicate * self.shard

    def place(self, rank: int) -> Place:
        """Coordinates of a rank."""
        if not 0 <= rank < self.world_size:
            raise ValueError(f"rank {rank} is outside a world of {self.world_size}")
        rank, tensor = divmod(rank, self.tensor)
        rank, shard = divmod(rank, self.shard)
        pipeline, replicate = divmod(rank, self.replicate)
        return Place(pipeline, replicate, shard, tensor)

    def rank(self, place: Place) -> int:
        """The rank at given coordinates."""
        return (
            (place.pipeline * self.replicate + place.replicate) * self.shard + place.shard
        ) * self.tensor + place.tensor

    def data_rank(self, rank: int) -> int:
        """Which share of every global batch a rank reads, 0 to data - 1."""
        place = self.place(rank)
        return place.replicate * self.shard + place.shard


PART = re.compile(r"(ddp|zero[123])(?:x(\d+))?|(tensor|pipeline)(\d+)?")


def parse_strategy(text: str) -> Layout:
    """The layout that a strategy name means.

    Grammar: parts joined by "_"; a part is `ddp`, `zero1`, `zero2`, `zero3` (degree 2, or xN behind it: `zero3x4`) or
    `tensorN`, `pipelineN`. `ddp` and one `zeroK` together mean replicas of shards. Example: zero3x2_tensor2_pipeline2.

    Raises:
        ValueError: the text does not follow the grammar, or names an axis twice.
    """
    layout, seen = Layout(), set[str]()
    for part in text.split("_"):
        found = PART.fullmatch(part)
        if found is None:
            raise ValueError(
                f"strategy {text!r}: {part!r} is not one of ddp, zero1, zero2, zero3 (with xN behind it for a degree), "
                "tensorN, pipelineN"
            )
        name, degree = found[1] or found[3], int(found[2] or found[4] or 2)
        axis = {"ddp": "replicate", "tensor": "tensor", "pipeline": "pipeline"}.get(name, "shard")
        if axis in seen:
            raise ValueError(f"strategy {text!r} names the {axis} axis twice")
        seen.add(axis)
        named: dict[str, Any] = {axis: degree} | ({"zero": int(name[-1])} if axis == "shard" else {})
        layout = replace(layout, **named)
    return layout


def resolve(options: ParallelOptions, workers: int) -> Layout:
    """The layout for a number of workers, its one "auto" degree replaced.

    Raises:
        ValueError: two degrees are "auto", or the degrees do not multiply to the workers.
    """
    degrees = {axis: getattr(options, axis) for axis in AXES}
    automatic = [axis for axis, degree in degrees.items() if degree == "auto"]
    if len(automatic) > 1:
        raise ValueError(f'only one degree may be "auto", got {" and ".join(automatic)}')
    known = prod(degree for degree in degrees.values() if degree != "auto")
    if automatic:
        degree, rest = divmod(workers, known)
        if rest or not degree:
            raise ValueError(f"the other degrees multiply to {known}, which does not divide workers={workers}")
        degrees[automatic[0]] = degree
    layout = Layout(zero=options.zero, schedule=options.schedule, **degrees)
    if layout.world_size != workers:
        product = f"{layout.factors} = {layout.world_size}"
        raise ValueError(f'{product}, but workers={workers}; make them equal, or one of the degrees "auto"')
    return layout


def refusal(entry: Entry, config: Any, layout: Layout) -> str:
    """Why an entry cannot be laid out so, in one sentence; "" where it can."""
    reasons = (catalog.refusal(entry, config, axis, degree) for axis, degree in layout.degrees.items())
    return next((reason for reason in reasons if reason), "")
