"""What will an entry need on a rank, and which micro-batch fits? From its record to the formulas, without torch.

An entry that names its parameters' shapes is counted from them. Another one's own count does as well where layers are
not split; else the model is built on the meta device, which takes no memory but needs torch.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.util import find_spec
from math import prod
from pathlib import Path
from typing import Any

from ..models.entry import Entry, Shape, ties
from .groups import group_of, read_groups
from .layout import Layout
from .memory import COMPUTE, MemoryPlan, memory_plan
from .memory_pieces import Activations, Sizes
from .options import OptimizerOptions, TrainOptions
from .portions import divisors, share

BYTES = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2, "int64": 8, "int32": 4, "uint8": 1, "bool": 1}
TOKEN = 2 * 8  # bytes of a token in a batch: input and target, int64
SAMPLE = 8 + 2 * 4  # of a sample: its id and its random key
HEADROOM = 0.9  # of the memory may be planned for: the formulas err by up to a tenth
MEMINFO, CGROUP = Path("/proc/meminfo"), Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Counted:
    """A model's sizes and who counted them."""

    sizes: Sizes
    by: str


@dataclass(frozen=True)
class Portions:
    """What a rank works on, as far as memory is concerned."""

    layout: Layout
    train: TrainOptions
    optimizer: OptimizerOptions
    tokens: int  # of one sample; 0 where data has none

    @property
    def of_rank(self) -> int:
        """Samples of a data rank in one step."""
        return share(self.train.global_batch, self.layout.data)


def count(entry: Entry, config: Any, tensor: int = 1) -> Counted:
    """The sizes of an entry's parameters.

    Raises:
        ValueError: the model must be built to be counted, and torch is missing.
    """
    units, tied = tuple(unit.path for unit in entry.units(config)) if entry.units else (), ties(entry, config)
    plan = entry.tensor(config) if entry.tensor and tensor > 1 else None
    if entry.shapes is not None:
        return Counted(Sizes(entry.shapes(config), units, tied, plan, entry.experts), "by the entry")
    if entry.parameters is not None and plan is None:
        return Counted(Sizes(_flat(entry, config), units, tied), "by the entry")
    return Counted(Sizes(_built(entry, config), units, tied, plan, entry.experts), "on the meta device")


def _flat(entry: Entry, config: Any) -> Mapping[str, Shape]:
    """One flat tensor for each unit, and one for the rest."""
    assert entry.parameters is not None
    units = entry.units(config) if entry.units else ()
    rest = entry.parameters(config) - sum(unit.parameters for unit in units)
    return {f"{unit.path}.parameters": (unit.parameters,) for unit in units} | ({"rest": (rest,)} if rest else {})


def _built(entry: Entry, config: Any) -> dict[str, Shape]:
    name = entry.name or "the model"
    if find_spec("torch") is None:
        raise ValueError(
            f"{name} does not say how many parameters it has, so it must be built to be counted, which needs torch: "
            "pip install 'shardwright[train]', or give the entry parameters=..."
        )
    import torch

    from ..models.program import build

    with torch.device("meta"):
        program = build(entry, config)
    return {name: tuple(parameter.shape) for name, parameter in program.named_parameters()}


def activations(entry: Entry, config: Any, samples: int, tokens: int, dtype: str) -> Activations:
    """What forward keeps of one micro-batch; zeros for what the entry does not declare."""
    element = COMPUTE[dtype]
    found = entry.boundary(config, samples, tokens) if entry.boundary else ()
    cuts = list(found.values()) if isinstance(found, Mapping) else [found]
    ends, passing = entry.ends(config, samples, tokens, element) if entry.ends else (0, 0)
    return Activations(
        unit=entry.activations(config, samples, tokens, element) if entry.activations else 0,
        ends=ends,
        passing=passing,
        boundary=max((sum(prod(shape) * BYTES.get(name, element) for shape, name in cut) for cut in cuts), default=0),
        batch=samples * (tokens * TOKEN + SAMPLE) if tokens else 0,
    )


def stream_bytes(entry: Entry, config: Any, slots: int) -> int:
    """What so many slots carry from a step to the next."""
    streams = entry.streams(config).values() if entry.streams else ()
    return slots * sum(prod(stream.shape) * BYTES[stream.dtype] for stream in streams)


def rank_memory(entry: Entry, config: Any, portions: Portions, micro_batch: int, sizes: Sizes) -> MemoryPlan:
    """The memory of the rank that needs most, with a micro-batch of so many samples."""
    train, layout = portions.train, portions.layout
    groups = read_groups(portions.optimizer.groups)
    frozen = frozenset(name for name in sizes.shapes if group_of(groups, name).frozen)
    return memory_plan(
        replace(sizes, frozen=frozen),
        layout,
        activations(entry, config, micro_batch, portions.tokens // layout.context, train.dtype),
        portions.optimizer,
        dtype=train.dtype,
        recompute=train.recompute,
        micro_batches=portions.of_rank // micro_batch,
    )


def legal_micro_batches(entry: Entry, portions: Portions) -> list[int]:
    """Rising divisors of a rank's share that leave a pipeline a micro-batch for each stage, but for gpipe."""
    layout, samples = portions.layout, portions.of_rank
    if entry.coupled == "batch":
        return [samples]
    fewest = 1 if layout.schedule == "gpipe" else layout.pipeline
    return [size for size in divisors(samples) if samples // size >= fewest] or [1]


def estimate_micro_batch(entry: Entry, config: Any, portions: Portions, available: int | None) -> int:
    """The largest micro-batch whose estimated peak fits; 1 where none does, the largest where nothing is known.

    Args:
        available: bytes that one worker may use; None where they are not known.
    """
    sizes = legal_micro_batches(entry, portions)
    if available is None or entry.activations is None:
        return sizes[-1]
    model = count(entry, config, portions.layout.tensor).sizes
    fitting = [s for s in sizes if rank_memory(entry, config, portions, s, model).peak_bytes <= HEADROOM * available]
    return max(fitting, default=sizes[0])


def available_bytes(meminfo: Path = MEMINFO, cgroup: Path = CGROUP) -> int | None:
    """Bytes that new processes of this machine may use: what the kernel calls available, or a container's limit."""
    try:
        lines = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
        free = int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return None
    try:
        limit = int((cgroup / "memory.max").read_text()) - int((cgroup / "memory.current").read_text())
    except (OSError, ValueError):  # no container, or one without a limit ("max")
        return free
    return max(0, min(free, limit))


def available_for_worker(workers: int) -> int | None:
    """A CPU worker's share of the memory that is available now."""
    free = available_bytes()
    return None if free is None else free // max(1, workers)
