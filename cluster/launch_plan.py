"""What is known of a job before it starts, and how does it read?

Columns are aligned; every table of memory is in one unit, so that its lines add up by eye.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ..trainers.layout import AXES, Layout
from ..trainers.memory import UNITS, MemoryPlan, human, total
from ..trainers.memory_moments import Term
from ..trainers.pipeline_order import schedule_of

RANKS = 8  # of the mesh are listed at most
MARGIN = 12  # columns of the headings
PREFIXES = ("", "k", "M", "G", "T", "P", "E", "Z")
WARNING = "does not fit"


@dataclass(frozen=True)
class LaunchPlan:
    """Everything that is known of a job before it starts. Bytes, elements, samples; `str` is for people."""

    job: str
    model: str
    preset: str
    parameters: int
    counted: str  # who counted them
    device: str
    layout: Layout
    stages: tuple[tuple[str, ...], ...]  # the units of each pipeline stage, or of each part where a stage has several
    global_batch: int
    micro_batch: int
    settled: bool  # the job says it; otherwise it is an estimate that a probe step settles
    steps: int | None  # None: it depends on the length of data that is not prepared
    tokens: int  # of one sample; 0 where data has none
    flops: float | None  # of one step, forward and backward; None: the entry does not say
    memory: MemoryPlan  # of the worker that needs most
    complete: bool  # the entry says what forward keeps for backward; without it the peak lacks activations
    available: int | None  # bytes that one worker may use; None: not known here
    snapshot: int  # bytes of shared memory of one worker
    checkpoint: int  # bytes of one checkpoint of the whole model
    kept: int  # checkpoints

    @property
    def micro_batches(self) -> int:
        """Micro-batches of a data rank in one step."""
        return self.global_batch // self.layout.data // self.micro_batch

    @property
    def mesh(self) -> str:
        """The layout in words, as the run's record has it."""
        return f"{self.layout.factors}, zero {self.layout.zero}"

    def __str__(self) -> str:
        return describe(self)

    def tree(self) -> dict[str, Any]:
        """The plan as JSON values."""
        values = {name: value for name, value in vars(self).items() if name not in ("layout", "memory")}
        ranks = range(self.layout.world_size)
        return values | {
            "layout": self.mesh,
            "workers": self.layout.world_size,
            "mesh": asdict(self.layout),
            "places": [{"rank": rank, **asdict(self.layout.place(rank))} for rank in ranks],
            "micro_batches": self.micro_batches,
            "memory": _memory_tree(self.memory),
        }

    def to_json(self) -> str:
        """The plan as text for machines."""
        return json.dumps(self.tree(), indent=1)


def _memory_tree(memory: MemoryPlan) -> dict[str, Any]:
    moments = {"held": memory.held, "rest": memory.rest, "peak": memory.peak}
    sums = {f"{name}_bytes": total(terms) for name, terms in moments.items()}
    return {"stage": memory.stage, "where": memory.where, **sums, **asdict(memory)}


def describe(plan: LaunchPlan) -> str:
    """The plan for people."""
    sections = {
        "model": _model(plan),
        "mesh": _mesh(plan),
        "step": _step(plan),
        "run": _run(plan),
        "memory": _memory(plan),
        "snapshot": _snapshot(plan),
        "checkpoint": _checkpoint(plan),
    }
    return "\n".join(
        f"{title if first else '':{MARGIN}} {line}".rstrip()
        for title, lines in sections.items()
        for first, line in ((index == 0, line) for index, line in enumerate(lines))
    )


def amount(value: float, unit: str = "") -> str:
    """1234567 -> "1.23 M"; below a thousand, the number itself."""
    index = 0
    while abs(value) >= 1000 and index + 1 < len(PREFIXES):
        value, index = value / 1000, index + 1
    number = f"{value:.2f}" if index else f"{value:g}"
    return f"{number} {PREFIXES[index]}{unit}".rstrip()


def _model(plan: LaunchPlan) -> Iterator[str]:
    name = " ".join(filter(None, (plan.model, plan.preset)))
    yield f"{name}, {plan.parameters:,} parameters ({human(4 * plan.parameters)} in fp32), counted {plan.counted}"


def _mesh(plan: LaunchPlan) -> Iterator[str]:
    layout = plan.layout
    workers = "worker" if layout.world_size == 1 else "workers"
    schedule = f", schedule {layout.schedule}" if layout.pipeline > 1 else ""
    yield f"{layout.world_size} {workers} on {plan.device} = {plan.mesh}{schedule}"
    axes = [axis for axis in AXES if layout.degrees[axis] > 1]
    if axes:
        yield _row("rank", *axes)
        for rank in _shown(layout.world_size):
            yield _row(*["..."] * (1 + len(axes))) if rank is None else _row(rank, *_coordinates(layout, rank, axes))
    if layout.pipeline > 1:
        order = schedule_of(layout.schedule, layout.pipeline)
        for index, units in enumerate(plan.stages):
            stage, chunk = order.place(index, layout.pipeline)
            part = f", part {chunk + 1} of {layout.chunks}," if layout.chunks > 1 else ""
            yield f"stage {stage}{part} holds {units[0]}" + (f" to {units[-1]}" if len(units) > 1 else "")


def _row(*cells: object) -> str:
    return " ".join(f"{cell!s:>9}" for cell in cells)


def _coordinates(layout: Layout, rank: int, axes: Sequence[str]) -> list[int]:
    place = layout.place(rank)
    return [getattr(place, axis) for axis in axes]


def _shown(world_size: int) -> Sequence[int | None]:
    """Ranks that are listed; None stands for those left out."""
    return range(world_size) if world_size <= RANKS else [*range(RANKS - 2), None, world_size - 1]


def _step(plan: LaunchPlan) -> Iterator[str]:
    ranks = f"{plan.layout.data} data rank{'s' * (plan.layout.data > 1)}"
    micro = f"{plan.micro_batches} micro-batch{'es' * (plan.micro_batches > 1)}"
    yield f"{plan.global_batch} samples = {ranks} x {micro} x {plan.micro_batch} samples"
    if not plan.settled:
        yield 'the micro-batch is an estimate, settled by a probe step (train.micro_batch = "auto")'
    if plan.tokens:
        yield f"{plan.global_batch * plan.tokens:,} tokens"
    yield f"{amount(plan.flops, 'FLOP')} (3 x forward)" if plan.flops else "FLOPs unknown: the entry has no flops"


def _run(plan: LaunchPlan) -> Iterator[str]:
    if plan.steps is None:
        yield "steps are known after `shardwright data prepare`: train.epochs counts passes over the data"
        return
    tokens = f", {amount(plan.steps * plan.global_batch * plan.tokens)} tokens" if plan.tokens else ""
    yield f"{plan.steps:,} steps{tokens}" + (f", {amount(plan.steps * plan.flops, 'FLOP')}" if plan.flops else "")


def _memory(plan: LaunchPlan) -> Iterator[str]:
    memory = plan.memory
    which = f" of stage {memory.stage}, which needs most" if plan.layout.pipeline > 1 else ""
    yield f"of one worker{which}; P = {human(memory.parameters)}, its parameters in fp32"
    scale = _scale(total(memory.peak))
    if plan.micro_batches > 1 and plan.layout.pipeline == 1:
        yield from _table("between two micro-batches", memory.held, scale)
    yield from _table("after a step", memory.rest, scale)
    yield from _table(f"at most: {memory.where}", memory.peak, scale)
    if not plan.complete:
        yield "the peak lacks activations: the entry does not declare them; a probe step measures what fits"
    yield _fit(plan)


def _scale(size: int) -> int:
    """The index of the unit in which a size reads well."""
    return next((i for i in range(len(UNITS)) if size < 1024 ** (i + 1)), len(UNITS) - 1)


def _table(title: str, terms: Sequence[Term], scale: int) -> Iterator[str]:
    yield f"{title:40} {UNITS[scale]:>10}"
    for term in terms:
        yield f"  {term.name:38} {term.bytes / 1024**scale:>10.2f}  {term.formula}"
    yield f"  {'sum':38} {total(terms) / 1024**scale:>10.2f}"


def _fit(plan: LaunchPlan) -> str:
    if plan.available is None:
        return "what a worker may use is not known here"
    verdict = "" if plan.memory.peak_bytes <= plan.available else f": {WARNING}"
    return f"{human(plan.available)} are available to a worker{verdict}"


def _snapshot(plan: LaunchPlan) -> Iterator[str]:
    if plan.snapshot:
        everyone = human(plan.snapshot * plan.layout.world_size)
        yield f"{human(plan.snapshot)} of shared memory a worker (two slots), {everyone} in all"
    else:
        yield "none (recovery.snapshot_every = 0)"


def _checkpoint(plan: LaunchPlan) -> Iterator[str]:
    yield f"{human(plan.checkpoint)} of disk each, the newest {plan.kept} are kept"
