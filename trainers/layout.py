"""Where does each rank sit? One validated value of degrees, and the arithmetic between ranks and coordinates.

Axes from the slowest to the fastest: pipeline, replicate, shard, context, tensor. Ranks along `replicate` and `shard`
read different samples, those along `context` different tokens of the same samples; ranks along `pipeline` and `tensor`
share theirs. The expert axis lies across: consecutive ranks of replicate x shard x context.
"""

import re
from dataclasses import dataclass
from math import prod
from typing import Any

from .options import ParallelOptions
from .pipeline_order import schedule_of

AXES = ("pipeline", "replicate", "shard", "context", "tensor")
HOW = ("schedule", "attention", "sequence", "offload", "engine")  # options that say how an axis works


@dataclass(frozen=True)
class Place:
    """The coordinates of one rank."""

    pipeline: int
    replicate: int
    shard: int
    context: int
    tensor: int


@dataclass(frozen=True)
class Layout:
    """Degrees of the mesh, and how each axis works."""

    zero: int = 0
    pipeline: int = 1
    replicate: int = 1
    shard: int = 1
    context: int = 1
    tensor: int = 1
    expert: int = 1
    schedule: str = "1f1b"
    attention: str = "gather"  # over the context axis: gather or ulysses
    sequence: bool = False  # tokens split over the tensor axis between split layers
    offload: bool = False  # ZeRO keeps its shards in the CPU's memory
    engine: str = "torch"

    def __post_init__(self) -> None:
        if any(degree < 1 for degree in (*self.degrees.values(), self.expert)):
            raise ValueError(f"every degree is at least 1, got {self.factors} x expert {self.expert}")
        if self.zero not in (0, 1, 2, 3):
            raise ValueError(f"zero={self.zero} is not a ZeRO stage (legal: 0, 1, 2, 3)")
        if self.zero == 0 and self.shard > 1:
            raise ValueError(f"shard={self.shard} needs zero = 1, 2 or 3; replicas of the model are parallel.replicate")
        if (self.data * self.context) % self.expert:
            ranks = f"replicate {self.replicate} x shard {self.shard} x context {self.context}"
            raise ValueError(f"expert={self.expert} does not divide the {self.data * self.context} ranks of {ranks}")
        if self.offload and self.zero != 3:
            raise ValueError(f"offload moves ZeRO-3's shards to the CPU's memory, but zero={self.zero}; set zero = 3")
        if self.sequence and self.tensor == 1:
            raise ValueError("sequence splits tokens over the tensor axis, but tensor=1; set tensor = 2 or more")

    @property
    def degrees(self) -> dict[str, int]:
        """Degree of each axis of the mesh, slowest first."""
        within = {"pipeline": 1} if self.engine == "fairscale" else {}  # all stages of its Pipe are in one process
        return {axis: getattr(self, axis) for axis in AXES} | within

    @property
    def factors(self) -> str:
        """The product in words: "pipeline 2 x replicate 1 x shard 2 x context 1 x tensor 1"."""
        return " x ".join(f"{axis} {degree}" for axis, degree in self.degrees.items())

    @property
    def world_size(self) -> int:
        """Number of ranks."""
        return prod(self.degrees.values())

    @property
    def data(self) -> int:
        """Number of ranks that read different samples."""
        return self.replicate * self.shard

    @property
    def shards(self) -> int:
        """Ranks over which ZeRO splits a parameter: context ranks hold a shard each, as they are copies otherwise."""
        return self.shard * self.context if self.zero else 1

    @property
    def copies(self) -> int:
        """Ranks that hold the same parameters, or the same shards of them, and sum their gradients."""
        return self.replicate if self.zero else self.replicate * self.context

    @property
    def chunks(self) -> int:
        """Parts of the model on one rank of the pipeline."""
        return schedule_of(self.schedule, self.pipeline).chunks

    def tokens(self, whole: int) -> int:
        """Tokens of a sample that a rank holds between two units."""
        return whole // self.context // (self.tensor if self.sequence else 1)

    def refusal(self, tokens: int) -> str:
        """Why samples of so many tokens cannot be cut for this layout, in one sentence; "" where they can."""
        parts, held = 2 * self.context, tokens // self.context
        if self.context > 1 and tokens % parts:
            return f"context={self.context} cuts a sample into {parts} chunks, which do not divide its {tokens} tokens"
        if self.sequence and held % self.tensor:
            return f"sequence splits the {held} tokens of a rank, which tensor={self.tensor} does not divide"
        return ""

    def place(self, rank: int) -> Place:
        """Coordinates of a rank."""
        if not 0 <= rank < self.world_size:
            raise ValueError(f"rank {rank} is outside a world of {self.world_size}")
        found = {}
        for axis in reversed(AXES):
            rank, found[axis] = divmod(rank, getattr(self, axis))
        return Place(**found)

    def rank(self, place: Place) -> int:
        """The rank at given coordinates."""
        rank = 0
        for axis, degree in self.degrees.items():
            rank = rank * degree + int(getattr(place, axis))
        return rank

    def data_rank(self, rank: int) -> int:
        """Which share of every global batch a rank reads, 0 to data - 1."""
        place = self.place(rank)
        return place.replicate * self.shard + place.shard


PART = re.compile(
    r"(?P<name>ddp|zero[123])(?:x(?P<data>\d+))?|hsdp(?P<copies>\d+)x(?P<shards>\d+)"
    r"|(?P<axis>tensor|pipeline|context|expert)(?P<degree>\d+)?"
    r"|(?P<mode>offload|sequence|interleaved|zbv|gpipe|gather|ulysses)|(?P<engine>deepspeed|horovod|fairscale|oss)"
)
MODES: dict[str, dict[str, Any]] = {
    "offload": {"offload": True},
    "sequence": {"sequence": True},
    "interleaved": {"schedule": "interleaved"},
    "zbv": {"schedule": "zbv"},
    "gpipe": {"schedule": "gpipe"},
    "gather": {"attention": "gather"},
    "ulysses": {"attention": "ulysses"},
    "deepspeed": {"engine": "deepspeed"},
    "fairscale": {"engine": "fairscale"},
    "oss": {"zero": 1, "shard": 2},
    "horovod": {"engine": "horovod", "replicate": 2},
}


def parse_strategy(text: str) -> Layout:
    """The layout that a strategy name means.

    Grammar: parts joined by "_". `ddp`, `zero1`, `zero2`, `zero3` (degree 2, or xN behind it: `zero3x4`) and `hsdpAxB`
    (A replicas of B shards, ZeRO-3) say who reads which samples; `tensorN`, `pipelineN`, `contextN`, `expertN` split
    the model; `offload`, `sequence`, `gpipe`, `interleaved`, `zbv`, `gather`, `ulysses` say how; `deepspeed`,
    `fairscale_oss`, `horovod` name an engine. `ddp` and one `zeroK` together mean replicas of shards.
    Examples: zero3x2_tensor2_pipeline2, tensor2_sequence, context2_ulysses, deepspeed_zero2.

    Raises:
        ValueError: the text does not follow the grammar, names an axis twice, or contradicts itself.
    """
    values: dict[str, Any] = {}
    for part in text.split("_"):
        found = PART.fullmatch(part)
        if found is None:
            raise ValueError(
                f"strategy {text!r}: {part!r} is not one of ddp, zero1, zero2, zero3 (with xN behind it for a degree), "
                "hsdpAxB, tensorN, pipelineN, contextN, expertN, " + ", ".join(MODES)
            )
        meant = _meaning(found)
        if twice := values.keys() & meant.keys():
            raise ValueError(f"strategy {text!r} names the {min(twice)} axis twice")
        values |= meant
    if values.get("expert", 1) > 1 and not values.keys() & {"replicate", "shard", "context"}:
        values["replicate"] = values["expert"]  # its ranks read different samples
    return Layout(**values)


def _meaning(part: re.Match[str]) -> dict[str, Any]:
    """What one part of a strategy's name says of the layout."""
    if part["name"]:
        degree = int(part["data"] or 2)
        name = part["name"]
        return {"replicate": degree} if name == "ddp" else {"shard": degree, "zero": int(name[-1])}
    if part["copies"]:
        return {"replicate": int(part["copies"]), "shard": int(part["shards"]), "zero": 3}
    if part["axis"]:
        return {part["axis"]: int(part["degree"] or 2)}
    return MODES[part["mode"] or part["engine"]]


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
    modes = {name: getattr(options, name) for name in ("zero", "expert", *HOW)}
    layout = Layout(**degrees, **modes)
    if layout.world_size != workers:
        product = f"{layout.factors} = {layout.world_size}"
        raise ValueError(f'{product}, but workers={workers}; make them equal, or one of the degrees "auto"')
    return layout
