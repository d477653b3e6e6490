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
from .pipeline_order import cut, schedule_of, splits_backward

WHOLE = 4  # tensors of a block as wide as the residual stream: its input, two normed inputs, the middle
GATHERED = 2  # of them, with sequence parallel, hold all tokens: the normed inputs
LAST = 2  # such tensors of the last unit: its input, and that normed
Shapes = Mapping[str, Shape]


@dataclass(frozen=True)
class Sizes:
    """A model before any split."""

    shapes: Shapes  # every parameter's name and shape; a tied weight under its owner's name alone
    units: tuple[str, ...] = ()  # module paths, in the order of forward
    tied: tuple[tuple[str, str], ...] = ()  # (owner, alias) parameter names
    tensor: TensorPlan | None = None
    experts: tuple[str, ...] = ()  # patterns of parameters that the expert axis splits
    frozen: frozenset[str] = frozenset()  # parameters that are not trained

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
    trained: int  # of `elements`, those with a gradient
    reduced: int  # of `shard`, those with a gradient
    largest: int  # elements of its largest trained parameter
    tied: int  # elements of trained weights that are used twice in it
    copied: int  # of `shard`, a copy of a weight in another chunk: it is not updated or saved itself
    updated: int  # of `shard`, what the optimizer updates
    late: bool  # reduced only when the whole backward has ended, since its inputs need no gradient
    apart: bool = False  # split experts, which ZeRO leaves as they are

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


@dataclass(frozen=True)
class Backward:
    """What a rank keeps when the backward of a micro-batch begins in one of its chunks."""

    chunk: int
    micro_batch: int
    waiting: tuple[int, ...]  # of each chunk, micro-batches before their backward, without this one
    halfway: tuple[int, ...]  # of each chunk, those whose weights' gradients are put off
    messages: int  # to other ranks: forward ones until their backward, gradients until the step ends


def stages(sizes: Sizes, number: int) -> list[tuple[str, ...]]:
    """The units that each virtual stage of a pipeline holds.

    Raises:
        ValueError: there are fewer units than stages.
    """
    if number == 1:
        return [sizes.units]
    weights = [sum(map(prod, within(sizes.shapes, (unit,)).values())) for unit in sizes.units]
    return [tuple(sizes.units[i] for i in part) for part in cut(weights, number)]


def chunks(sizes: Sizes, layout: Layout) -> list[list[tuple[str, ...]]]:
    """The units of each chunk of each rank of the pipeline.

    Raises:
        ValueError: there are fewer units than virtual stages.
    """
    found, schedule = stages(sizes, layout.pipeline * layout.chunks), schedule_of(layout.schedule, layout.pipeline)
    return [
        [found[schedule.stage(rank, layout.pipeline, chunk)] for chunk in range(layout.chunks)]
        for rank in range(layout.pipeline)
    ]


def backwards(layout: Layout, rank: int, micro_batches: int, recompute: str = "none") -> tuple[Backward, ...]:
    """The backwards of one rank of the pipeline, in its schedule's order."""
    schedule = schedule_of(layout.schedule, layout.pipeline)
    split = splits_backward(schedule, layout.shards, recompute)
    before, after = _links(layout, rank)
    done = {kind: [0] * layout.chunks for kind in "FBW"}
    found = []
    for kind, micro_batch, chunk in schedule.order(rank, layout.pipeline, micro_batches):
        if kind == "B":
            waiting = [forward - backward for forward, backward in zip(done["F"], done["B"], strict=True)]
            halfway = [b - w for b, w in zip(done["B"], done["W"], strict=True)] if split else [0] * layout.chunks
            messages = sum(n for n, linked in zip(waiting, after, strict=True) if linked)
            messages += sum(n for n, linked in zip(done["B"], before, strict=True) if linked)
            others = tuple(n - (index == chunk) for index, n in enumerate(waiting))
            found.append(Backward(chunk, micro_batch, others, tuple(halfway), messages))
        done[kind][chunk] += 1
    return tuple(found)


def _links(layout: Layout, rank: int) -> tuple[list[bool], list[bool]]:
    """Of each chunk, whether the virtual stage before it, and the one behind it, is on another rank."""
    ranks, last = layout.pipeline, layout.pipeline * layout.chunks - 1
    schedule = schedule_of(layout.schedule, ranks)
    mine = [schedule.stage(rank, ranks, chunk) for chunk in range(layout.chunks)]
    before = [stage > 0 and schedule.place(stage - 1, ranks)[0] != rank for stage in mine]
    return before, [stage < last and schedule.place(stage + 1, ranks)[0] != rank for stage in mine]


def split_shape(name: str, shape: Shape, plan: TensorPlan | None, degree: int) -> Shape:
    """The shape of one tensor rank's part of a parameter: columns split dim 0, rows split dim 1 of the weight."""
    module, _, kind = name.rpartition(".")
    if plan is None or degree == 1:
        return shape
    own = next((dim for pattern, dim in plan.own.items() if fnmatchcase(name, pattern)), None)
    if own is not None:
        return (*shape[:own], shape[own] // degree, *shape[own + 1 :])
    if splits_vocabulary(name, shape, plan, degree):
        return (shape[0] // degree, *shape[1:])
    if any(fnmatchcase(module, pattern) for pattern in plan.columns):
        return (shape[0] // degree, *shape[1:])
    if kind == "weight" and any(fnmatchcase(module, pattern) for pattern in plan.rows):
        return (shape[0], shape[1] // degree)
    return shape


def splits_vocabulary(name: str, shape: Shape, plan: TensorPlan, degree: int) -> bool:
    """Whether a parameter splits along dim 0 because the degree divides it."""
    return any(fnmatchcase(name, pattern) for pattern in plan.vocabulary) and shape[0] % degree == 0


def pieces(
    sizes: Sizes, layout: Layout, units: tuple[str, ...], first: bool, beside: tuple[str, ...] = ()
) -> tuple[Piece, ...]:
    """A virtual stage's pieces as backward reaches them: what is in no unit, then the units from behind.

    Args:
        units: that the stage holds.
        first: whether it is the first stage, whose first unit reads the batch.
        beside: units of the rank's other chunks, whose weights it uses too, where ZeRO does not gather them apart.
    """
    mine = _stage_shapes(sizes, units, () if layout.shards > 1 else beside)
    found = [_piece((), mine, sizes, layout, beside, late=True)]
    for group in reversed(_groups(sizes, units)):
        found.append(_piece(group, mine, sizes, layout, beside, late=first and units[0] in group))
        found.append(_experts(group, mine, sizes, layout))
    return tuple(piece for piece in found if piece.elements)


def within(shapes: Shapes, units: Iterable[str]) -> dict[str, Shape]:
    """The parameters inside some units."""
    return {name: shape for name, shape in shapes.items() if _inside(name, units)}


def _inside(name: str, units: Iterable[str]) -> bool:
    return any(name.startswith(f"{unit}.") for unit in units)


def _stage_shapes(sizes: Sizes, units: tuple[str, ...], beside: tuple[str, ...]) -> dict[str, Shape]:
    """Parameters of one stage; one that holds only the second use of a tied weight has its own copy of it."""
    outside = {name: shape for name, shape in sizes.shapes.items() if not _inside(name, sizes.units)}
    mine = within(sizes.shapes, units)
    near = mine | within(sizes.shapes, beside)
    copies = {a: sizes.shapes[o] for o, a in sizes.tied if o not in near and _inside(a, units) and o in sizes.shapes}
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


def _shard(shape: Shape, layout: Layout) -> int:
    """Elements of a parameter on one of its shard ranks, with padding; fully_shard takes none without dims."""
    return -(-shape[0] // layout.shards) * prod(shape[1:]) if shape else 0


def _piece(
    units: tuple[str, ...], mine: Shapes, sizes: Sizes, layout: Layout, beside: tuple[str, ...], *, late: bool
) -> Piece:
    copies = {alias for owner, alias in sizes.tied if _inside(owner, beside)}
    named = within(mine, units) if units else {n: s for n, s in mine.items() if not _inside(n, sizes.units)}
    named = {name: shape for name, shape in named.items() if not _splits_experts(name, sizes, layout)}
    local = {name: split_shape(name, shape, sizes.tensor, layout.tensor) for name, shape in named.items()}
    counts = {name: prod(shape) for name, shape in local.items()}
    shards = {name: _shard(shape, layout) for name, shape in local.items()}
    trained = local.keys() - _frozen(sizes)
    twice = {owner for owner, alias in sizes.tied if owner in trained and _inside(alias, units)}
    return Piece(
        units=units,
        elements=sum(counts.values()),
        shard=sum(shards.values()),
        trained=sum(counts[name] for name in trained),
        reduced=sum(shards[name] for name in trained),
        largest=max((counts[name] for name in trained), default=0),
        tied=sum(counts[name] for name in twice),
        copied=sum(shards[name] for name in local.keys() & copies),
        updated=sum(shards[name] for name in trained - copies),
        late=late,
    )


def _frozen(sizes: Sizes) -> set[str]:
    """The frozen parameters, a tied one by both of its names."""
    return {*sizes.frozen, *(alias for owner, alias in sizes.tied if owner in sizes.frozen)}


def _experts(units: tuple[str, ...], mine: Shapes, sizes: Sizes, layout: Layout) -> Piece:
    """The experts of some units that a rank holds whole, where the expert axis splits them."""
    counts = {
        name: prod(split_shape(name, shape, sizes.tensor, layout.tensor)) // layout.expert
        for name, shape in within(mine, units).items()
        if _splits_experts(name, sizes, layout)
    }
    whole, trained = sum(counts.values()), [size for name, size in counts.items() if name not in sizes.frozen]
    mine_trained, largest = sum(trained), max(trained, default=0)
    return Piece(units, whole, whole, mine_trained, mine_trained, largest, 0, 0, mine_trained, late=False, apart=True)


def _splits_experts(name: str, sizes: Sizes, layout: Layout) -> bool:
    return layout.expert > 1 and any(fnmatchcase(name, pattern) for pattern in sizes.experts)


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


def on_tensor_rank(activations: Activations, sizes: Sizes, layout: Layout, autocast: bool) -> Activations:
    """The bytes on one tensor rank: what is as wide as the residual stream is not split, but by sequence parallel.

    Args:
        autocast: the residual stream is kept in fp32 beside its bf16 casts, which is twice its bf16 bytes more.
    """
    degree, stream = layout.tensor, activations.boundary
    between = degree if layout.sequence else 1
    whole = min(activations.unit, (GATHERED if layout.sequence else WHOLE) * stream)
    unit = whole + (activations.unit - whole) // degree
    logits = degree if _splits_logits(sizes, degree) else 1
    last = min(activations.ends, LAST * stream)
    return replace(
        activations,
        unit=unit + (WHOLE * stream // between if autocast else 0),
        ends=last + (activations.ends - last) // logits,
        passing=activations.passing // logits,
        boundary=stream // between,
    )


def _splits_logits(sizes: Sizes, degree: int) -> bool:
    plan = sizes.tensor
    return plan is not None and any(splits_vocabulary(name, s, plan, degree) for name, s in sizes.shapes.items())
