"""What does one rank hold of a model? Its parameters in the pieces that are gathered together, and its activations.

The pieces follow parallelize.py: a stage keeps its units, the tensor axis splits what the plan names, and fully_shard
gathers unit by unit, two units that share a weight together. Elements are counted, no bytes; torch is not needed.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from math import prod

from ..models.entry import Shape, TensorPlan
from .layout import Layout
from .pipeline_order import SCHEDULES, cut

WHOLE = 4  # tensors of a block as wide as the residual stream: its input, two normed inputs, the middle
Shapes = Mapping[str, Shape]


@dataclass(frozen=True)
class Sizes:
    """A model before any split."""

    shapes: Shapes  # every parameter's name and shape; a tied weight under its owner's name alone
    units: tuple[str, ...] = ()  # module paths, in the order of forward
    tied: tuple[tuple[str, str], ...] = ()  # (owner, alias) parameter names
    tensor: TensorPlan | None = None

    @property
    def parameters(self) -> int:
        """Elements of all parameters."""
        return sum(map(prod, self.shapes.values()))


@dataclass(frozen=True)
class Activations:
    """Bytes of one micro-batch on one rank that does not split layers; 0 where the entry does not say."""

    unit: int = 0  # kept by one unit for backward
    ends: int = 0  # kept by the last unit, the loss included
    passing: int = 0  # needed more by its backward, before its weights have gradients
    boundary: int = 0  # the tensors between two units
    batch: int = 0  # inputs and targets


@dataclass(frozen=True)
class Piece:
    """Parameters that are gathered together, as elements on this rank."""

    units: tuple[str, ...]  # none: what stands outside the units
    elements: int  # after the tensor split
    shard: int  # of them on this rank, padded to equal shards
    largest: int  # elements of its largest parameter
    tied: int  # elements of weights that are used twice in it
    late: bool  # reduced only when the whole backward has ended, since its inputs need no gradient

    @property
    def label(self) -> str:
        """Its units, for people."""
        return " and ".join(self.units) or "what is in no unit"


@dataclass(frozen=True)
class Kept:
    """Bytes of a micro-batch's activations."""

    reached: tuple[int, ...]  # alive when its backward reaches each piece
    waiting: int  # of a micro-batch whose backward has not begun
    loss: int  # alive when its backward begins, on the stage that holds the loss; 0 elsewhere


def stages(sizes: Sizes, pipeline: int) -> list[tuple[str, ...]]:
    """The units that each pipeline stage holds.

    Raises:
        ValueError: there are fewer units than stages.
    """
    if pipeline == 1:
        return [sizes.units]
    weights = [sum(map(prod, within(sizes.shapes, (unit,)).values())) for unit in sizes.units]
    return [tuple(sizes.units[i] for i in part) for part in cut(weights, pipeline)]


def alive(layout: Layout, stage: int, micro_batches: int) -> tuple[int, ...]:
    """For each micro-batch's backward, how many micro-batches have then done their forward but not their backward."""
    done, counts = {"F": 0, "B": 0}, []
    for action in SCHEDULES[layout.schedule].order(stage, layout.pipeline, micro_batches):
        if action.kind == "B":
            counts.append(done["F"] - done["B"])
        done[action.kind] += 1
    return tuple(counts)


def split_shape(name: str, shape: Shape, plan: TensorPlan | None, degree: int) -> Shape:
    """The shape of one tensor rank's part of a parameter: columns split dim 0, rows split dim 1 of the weight."""
    module, _, kind = name.rpartition(".")
    if plan is None or degree == 1:
        return shape
    if any(fnmatchcase(module, pattern) for pattern in plan.columns):
        return (shape[0] // degree, *shape[1:])
    if kind == "weight" and any(fnmatchcase(module, pattern) for pattern in plan.rows):
        return (shape[0], shape[1] // degree)
    return shape


def pieces(sizes: Sizes, layout: Layout, units: tuple[str, ...], first: bool) -> tuple[Piece, ...]:
    """A stage's pieces in the order in which backward reaches them: what is in no unit, then the units from behind.

    Args:
        units: that the stage holds.
        first: whether it is the first stage, whose first unit reads the batch.
    """
    mine = _stage_shapes(sizes, units)
    found = [_piece((), mine, sizes, layout, late=True)]
    for group in reversed(_groups(sizes, units)):
        found.append(_piece(group, mine, sizes, layout, late=first and units[0] in group))
    return tuple(piece for piece in found if piece.elements)


def within(shapes: Shapes, units: Iterable[str]) -> dict[str, Shape]:
    """The parameters inside some units."""
    return {name: shape for name, shape in shapes.items() if _inside(name, units)}


def _inside(name: str, units: Iterable[str]) -> bool:
    return any(name.startswith(f"{unit}.") for unit in units)


def _stage_shapes(sizes: Sizes, units: tuple[str, ...]) -> dict[str, Shape]:
    """Parameters of one stage; one that holds only the second use of a tied weight has its own copy of it."""
    outside = {name: shape for name, shape in sizes.shapes.items() if not _inside(name, sizes.units)}
    mine = within(sizes.shapes, units)
    copies = {a: sizes.shapes[o] for o, a in sizes.tied if o not in mine and _inside(a, units) and o in sizes.shapes}
    return mine | copies | outside


def _groups(sizes: Sizes, units: tuple[str, ...]) -> list[tuple[str, ...]]:
    """Units in the order of forward's end; those that share a weight stand together, where the later one stands."""
    groups: list[tuple[str, ...]] = [(unit,) for unit in units]
    for pair in sizes.tied:
        owner, alias = (next((g for g in groups if _inside(name, g)), None) for name in pair)
        if owner and alias and owner != alias:
            groups[groups.index(alias)] = owner + alias
            groups.remove(owner)
    return groups


def _piece(units: tuple[str, ...], mine: Shapes, sizes: Sizes, layout: Layout, *, late: bool) -> Piece:
    named = within(mine, units) if units else {n: s for n, s in mine.items() if not _inside(n, sizes.units)}
    local = {name: split_shape(name, shape, sizes.tensor, layout.tensor) for name, shape in named.items()}
    counts = {name: prod(shape) for name, shape in local.items()}
    twice = {owner for owner, alias in sizes.tied if owner in local and _inside(alias, units)}
    return Piece(
        units=units,
        elements=sum(counts.values()),
        shard=sum(-(-shape[0] // layout.shards) * prod(shape[1:]) for shape in local.values() if shape),
        largest=max(counts.values(), default=0),
        tied=sum(counts[name] for name in twice),
        late=late,
    )


def kept(
    held: tuple[Piece, ...], sizes: Sizes, units: tuple[str, ...], activations: Activations, recompute: bool
) -> Kept:
    """The activations of one micro-batch on a stage: backward frees them unit by unit, from behind.

    With recomputation each unit keeps its input, and the one in backward all it keeps otherwise.
    """
    each = [_unit_bytes(unit, sizes, activations) for unit in units] or [activations.unit]
    stored = [min(size, activations.boundary) for size in each] if recompute and units else each
    reached = []
    for piece in held:
        until = max((units.index(unit) for unit in piece.units), default=len(each) - 1)
        again = max(each[: until + 1]) if recompute and units else 0
        reached.append(sum(stored[: until + 1]) + again)
    again = max(each) if recompute and units else 0
    last = units[-1:] == sizes.units[-1:]
    return Kept(tuple(reached), sum(stored), sum(stored) + again + activations.passing if last else 0)


def _unit_bytes(unit: str, sizes: Sizes, activations: Activations) -> int:
    """The first unit's output is the second one's input and counted there, where the ends are told apart."""
    if activations.ends and unit == sizes.units[-1]:
        return activations.ends
    if activations.ends and unit == sizes.units[0]:
        return 0
    return activations.unit


def on_tensor_rank(activations: Activations, degree: int, autocast: bool) -> Activations:
    """A unit's bytes on one tensor rank: what is as wide as the residual stream is not split.

    Args:
        autocast: the residual stream is kept in fp32 beside its bf16 casts, which is twice its bf16 bytes more.
    """
    wide = WHOLE * activations.boundary
    whole = min(activations.unit, wide)
    rest = (activations.unit - whole) // degree
    return replace(activations, unit=whole + rest + (wide if autocast else 0))
