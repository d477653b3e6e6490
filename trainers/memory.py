"""How many bytes does a rank need, and for what? Formulas of ZeRO, tensor and pipeline parallel, without torch.

The peak is found by walking through backward as fully_shard does it and adding up what is alive: the largest sum is
the peak, term by term. benchmarks/memory.py prints what was measured beside it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from .layout import Layout
from .memory_moments import FULL, Chunk, Rank, Term, held, moments, rest
from .memory_pieces import Activations, Sizes, backwards, chunks, kept, on_tensor_rank, pieces
from .options import OptimizerOptions
from .pipeline_order import schedule_of, splits_backward

COMPUTE = {"fp32": 4, "bf16": 2, "fp16": 2}  # bytes of a number in forward and backward
UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes of the rank that needs most, at three moments of a step."""

    held: tuple[Term, ...]  # between two micro-batches of one step
    rest: tuple[Term, ...]  # after the step
    peak: tuple[Term, ...]
    where: str  # the moment of the peak
    stage: int  # the pipeline stage that needs most
    parameters: int  # bytes of the rank's parameters in fp32 before ZeRO splits them: P in the formulas
    snapshot: int  # bytes of its parameters and optimizer states

    @property
    def peak_bytes(self) -> int:
        """The sum of the peak's terms."""
        return total(self.peak)


def memory_plan(
    sizes: Sizes,
    layout: Layout,
    activations: Activations,
    optimizer: OptimizerOptions,
    *,
    dtype: str = "fp32",
    recompute: str = "none",
    micro_batches: int = 1,
) -> MemoryPlan:
    """The memory of the rank that needs most.

    Args:
        activations: of one micro-batch.
        recompute: "selective" counts as "none", which is its upper bound, as it is of activations = "int8": what is
            kept, with what is computed again or unpacked for the unit in backward, is at most what "none" keeps.
        micro_batches: of one step on one data rank.

    Raises:
        ValueError: the model has fewer units than the layout has stages.
    """
    compute = COMPUTE[dtype]
    local = on_tensor_rank(activations, sizes, layout, autocast=layout.shards == 1 and compute != FULL)
    plans = []
    for stage, parts in enumerate(chunks(sizes, layout)):
        rank = Rank(
            layout,
            tuple(_chunk(sizes, layout, parts, index, local, recompute) for index in range(len(parts))),
            backwards(layout, stage, micro_batches, recompute),
            states(optimizer),
            decay_copy=optimizer.name == "sgd" and optimizer.weight_decay > 0,
            compute=compute,
            batch=activations.batch * micro_batches,
            split=splits_backward(schedule_of(layout.schedule, layout.pipeline), layout.shards, recompute),
            message=activations.boundary,
        )
        plans.append(_plan(rank, stage))
    return max(plans, key=lambda plan: plan.peak_bytes)


def _chunk(
    sizes: Sizes, layout: Layout, parts: Sequence[tuple[str, ...]], index: int, local: Activations, recompute: str
) -> Chunk:
    """One of the parts of the model on a rank."""
    units = parts[index]
    beside = tuple(unit for other in parts if other is not units for unit in other)
    held = pieces(sizes, layout, units, units[:1] == sizes.units[:1], beside)
    return Chunk(held, kept(held, sizes, units, local, recompute == "full"))


def _plan(rank: Rank, stage: int) -> MemoryPlan:
    top = max(moments(rank), key=lambda moment: total(moment.terms))
    snapshot = (rank.saved + rank.states * rank.updated) * FULL
    return MemoryPlan(held(rank), rest(rank), top.terms, top.name, stage, rank.elements * FULL, snapshot)


def states(optimizer: OptimizerOptions) -> int:
    """Tensors that an update rule keeps for every parameter."""
    if optimizer.name == "adamw":
        return 2
    if optimizer.name == "lbfgs":
        return 2 * optimizer.history + 2
    return 1 if optimizer.momentum else 0


def total(terms: Sequence[Term]) -> int:
    """The sum of terms, in bytes."""
    return sum(term.bytes for term in terms)


def human(size: float) -> str:
    """Bytes in words: 1536 -> "1.50 KiB"."""
    for unit in UNITS[:-1]:
        if abs(size) < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.2f} {unit}"
        size /= 1024
    return f"{size:.2f} {UNITS[-1]}"
