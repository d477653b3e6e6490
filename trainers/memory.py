"""How many bytes does a rank need, and for what? Formulas of ZeRO, tensor and pipeline parallel, without torch.

The peak is found by walking backward through the units, as fully_shard does it, and adding up what is alive just
before each unit's gradient is reduced and while it is reduced; the largest sum is the peak, term by term.

P is this rank's parameters (after the tensor and the pipeline split) in fp32 bytes; N is the shard degree. fp32 takes
4 bytes an element; "compute" is the dtype of forward and backward (4 bytes, or 2 under bf16).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from math import prod

from ..models.entry import Shape, TensorPlan
from .layout import Layout
from .options import OptimizerOptions
from .pipeline_order import ORDERS, cut

FULL = 4  # bytes of an fp32 number
COMPUTE = {"fp32": 4, "bf16": 2}
WHOLE = 4  # tensors of a block as wide as the residual stream: its input, two normed inputs, the middle
UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


@dataclass(frozen=True)
class Term:
    """One part of a sum of bytes."""

    name: str
    bytes: int
    formula: str


@dataclass(frozen=True)
class Sizes:
    """A model before any split."""

    shapes: Mapping[str, Shape]  # every parameter's name and shape; a tied weight under its owner's name alone
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
    boundary: int = 0  # the tensors between two units
    batch: int = 0  # inputs and targets


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes of the rank that needs most, at three moments of a step."""

    held: tuple[Term, ...]  # between two micro-batches of one step
    rest: tuple[Term, ...]  # after the step
    peak: tuple[Term, ...]
    where: str  # the moment of the peak
    stage: int  # the pipeline stage that needs most
    snapshot: int  # bytes of parameters and optimizer states, the content of one snapshot

    @property
    def peak_bytes(self) -> int:
        """The sum of the peak's terms."""
        return total(self.peak)


@dataclass(frozen=True)
class Piece:
    """Parameters that are gathered together, as elements on this rank."""

    label: str
    elements: int  # after the tensor split
    shard: int  # of them on this rank, padded to equal shards
    largest: int  # elements of its largest parameter
    tied: int  # elements of weights that are used twice in it
    last: bool  # reduced only when the whole backward has ended, since its inputs need no gradient

    def gathered(self, degree: int) -> int:
        """Elements of the gathered parameters, the padding of their shards included."""
        return self.shard * degree


@dataclass(frozen=True)
class Rank:
    """What the formulas need to know of one rank."""

    pieces: tuple[Piece, ...]  # in the order in which backward reaches them
    kept: tuple[int, ...]  # bytes of a micro-batch's activations that are alive when its backward reaches each piece
    waiting: int  # bytes of activations of a micro-batch that waits for its backward
    alive: tuple[int, ...]  # micro-batches that are on their way at each one's backward
    layout: Layout
    states: int  # tensors of the optimizer per parameter
    decay_copy: bool  # the update adds the decay to a copy of the gradients
    compute: int  # bytes of an element in forward and backward
    micro_batches: int
    batch: int  # bytes of all micro-batches
    messages: int  # bytes sent to other stages, which live until the step ends

    @property
    def elements(self) -> int:
        return sum(piece.elements for piece in self.pieces)

    @property
    def shard(self) -> int:
        return sum(piece.shard for piece in self.pieces) if self.layout.shard > 1 else self.elements

    @property
    def largest(self) -> int:
        return max((piece.largest for piece in self.pieces), default=0)


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
        micro_batches: of one step on one data rank.

    Raises:
        ValueError: the model has fewer units than the layout has stages.
    """
    parts = stages(sizes, layout.pipeline)
    plans = []
    for stage, units in enumerate(parts):
        ends = (stage > 0) + (stage + 1 < len(parts))
        rank = Rank(
            pieces=_pieces(sizes, layout, units, whole=len(parts) == 1, first=stage == 0),
            kept=(),
            waiting=0,
            alive=alive(layout, stage, micro_batches),
            layout=layout,
            states=states(optimizer),
            decay_copy=optimizer.name == "sgd" and optimizer.weight_decay > 0,
            compute=COMPUTE[dtype],
            micro_batches=micro_batches,
            batch=activations.batch * micro_batches,
            messages=ends * activations.boundary * micro_batches,
        )
        autocast = layout.shard == 1 and rank.compute != FULL
        local = _split(activations, layout.tensor, WHOLE * activations.boundary if autocast else 0)
        kept, waiting = _kept(rank.pieces, sizes, units, local, recompute == "full")
        plans.append(_plan(replace(rank, kept=kept, waiting=waiting), stage))
    return max(plans, key=lambda plan: plan.peak_bytes)


def states(optimizer: OptimizerOptions) -> int:
    """Tensors that an update rule keeps for every parameter."""
    if optimizer.name == "adamw":
        return 2
    return 1 if optimizer.momentum else 0


def stages(sizes: Sizes, pipeline: int) -> list[tuple[str, ...]]:
    """The units that each pipeline stage holds."""
    if pipeline == 1:
        return [sizes.units]
    weights = [sum(prod(s) for n, s in sizes.shapes.items() if _inside(n, unit)) for unit in sizes.units]
    return [tuple(sizes.units[i] for i in part) for part in cut(weights, pipeline)]


def alive(layout: Layout, stage: int, micro_batches: int) -> tuple[int, ...]:
    """For each micro-batch's backward, how many micro-batches have then done their forward but not their backward."""
    done, counts = {"F": 0, "B": 0}, []
    for action in ORDERS[layout.schedule](stage, layout.pipeline, micro_batches):
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


def _inside(name: str, unit: str) -> bool:
    return name.startswith(f"{unit}.")


def _pieces(sizes: Sizes, layout: Layout, units: tuple[str, ...], *, whole: bool, first: bool) -> tuple[Piece, ...]:
    """A stage's groups in the order in which backward reaches them: what is in no unit, then the units from behind.

    Units that share a weight are one group, which backward reaches at the later unit.
    """
    shapes = _stage_shapes(sizes, units, whole)
    groups = _groups(sizes, units)
    pieces = [_piece("outside the units", _outside(shapes, units), sizes, layout, last=True)]
    for group in reversed(groups):
        mine = {n: s for n, s in shapes.items() if any(_inside(n, unit) for unit in group)}
        label = " and ".join(group)
        pieces.append(_piece(label, mine, sizes, layout, last=first and units[0] in group))
    return tuple(piece for piece in pieces if piece.elements)


def _stage_shapes(sizes: Sizes, units: tuple[str, ...], whole: bool) -> dict[str, Shape]:
    """Parameters of one stage; a stage that holds only the second use of a tied weight has its own copy of it."""
    if whole:
        return dict(sizes.shapes)
    mine = {n: s for n, s in sizes.shapes.items() if any(_inside(n, u) for u in units)}
    for owner, alias in sizes.tied:
        if owner not in mine and any(_inside(alias, u) for u in units):
            mine[alias] = sizes.shapes[owner]
    return mine | {n: s for n, s in _outside(sizes.shapes, sizes.units).items() if n not in mine}


def _outside(shapes: Mapping[str, Shape], units: tuple[str, ...]) -> dict[str, Shape]:
    return {n: s for n, s in shapes.items() if not any(_inside(n, unit) for unit in units)}


def _groups(sizes: Sizes, units: tuple[str, ...]) -> list[list[str]]:
    """Units in the order of forward's end; those that share a weight stand together, where the later one stands."""
    groups = [[unit] for unit in units]
    for owner, alias in sizes.tied:
        one = next((g for g in groups if any(_inside(owner, u) for u in g)), None)
        two = next((g for g in groups if any(_inside(alias, u) for u in g)), None)
        if one is not None and two is not None and one is not two:
            two[:0] = one
            groups.remove(one)
    return groups


def _piece(label: str, shapes: Mapping[str, Shape], sizes: Sizes, layout: Layout, *, last: bool) -> Piece:
    mine = [split_shape(n, s, sizes.tensor, layout.tensor) for n, s in shapes.items()]
    shard = sum(-(-s[0] // layout.shard) * prod(s[1:]) for s in mine if s)
    aliases = {owner: alias for owner, alias in sizes.tied}
    twice = [n for n in shapes if n in aliases and any(_inside(aliases[n], unit) for unit in label.split(" and "))]
    tied = sum(prod(split_shape(n, shapes[n], sizes.tensor, layout.tensor)) for n in twice)
    return Piece(label, sum(map(prod, mine)), shard, max(map(prod, mine), default=0), tied, last)


def _split(activations: Activations, degree: int, doubled: int) -> Activations:
    """A unit's bytes on one tensor rank: what is as wide as the residual stream is not split.

    Args:
        doubled: bytes that autocast adds, since it keeps the residual stream in fp32 beside its casts.
    """
    whole = min(activations.unit, WHOLE * activations.boundary)
    return replace(activations, unit=whole + doubled + (activations.unit - whole) // degree)


def _kept(
    pieces: tuple[Piece, ...],
    sizes: Sizes,
    units: tuple[str, ...],
    activations: Activations,
    recompute: bool,
) -> tuple[tuple[int, ...], int]:
    """Bytes of activations alive when backward reaches each piece, those of the units up to it; and of all units."""
    each = [_unit_bytes(unit, sizes, activations) for unit in units] or [activations.unit]
    stored = [min(size, activations.boundary) for size in each] if recompute and units else each
    found = []
    for piece in pieces:
        reached = [i for i, unit in enumerate(units) if unit in piece.label.split(" and ")]
        until = max(reached, default=len(each) - 1)
        again = max(each[: until + 1]) if recompute else 0
        found.append(sum(stored[: until + 1]) + again)
    return tuple(found), sum(stored)


def _unit_bytes(unit: str, sizes: Sizes, activations: Activations) -> int:
    """The first unit's output is the second one's input and counted there, where the ends are told apart."""
    if activations.ends and unit == sizes.units[-1]:
        return activations.ends
    if activations.ends and unit == sizes.units[0]:
        return 0
    return activations.unit


def _plan(rank: Rank, stage: int) -> MemoryPlan:
    moments = [*_moments(rank)]
    where, peak = max(moments, key=lambda moment: total(moment[1]))
    return MemoryPlan(_held(rank), _rest(rank), peak, where, stage, (1 + rank.states) * rank.shard * FULL)


def _share(rank: Rank) -> str:
    return f"P/{rank.layout.shard}" if rank.layout.shard > 1 else "P"


def _persistent(rank: Rank) -> tuple[Term, ...]:
    share = _share(rank)
    text = {0: "no state", 1: share, 2: f"2 {share}"}[rank.states]
    return (
        Term("parameters", rank.shard * FULL, share),
        Term("optimizer states", rank.states * rank.shard * FULL, text),
    )


def _casts(rank: Rank) -> Term:
    """What autocast made of the parameters; it forgets those of split layers after each forward."""
    return Term("bf16 parameters", rank.elements * rank.compute, f"{rank.compute}/{FULL} P, cast once a step")


def _copies(rank: Rank, gathered: int, label: str) -> Term:
    """Parameters that ZeRO gathered, in the dtype of the arithmetic, beside the fp32 shards."""
    return Term("gathered parameters", gathered * rank.compute, label)


def _whole(rank: Rank) -> int:
    return sum(piece.gathered(rank.layout.shard) for piece in rank.pieces)


def _held(rank: Rank) -> tuple[Term, ...]:
    """Between two micro-batches: Rajbhandari et al. 2020, and the sharded copy that fully_shard keeps."""
    terms = [*_persistent(rank)]
    size = f"{rank.compute}/{FULL} P" if rank.compute != FULL else "P"
    if rank.layout.shard == 1:
        terms.append(Term("gradients", rank.elements * FULL, "P"))
        if rank.compute != FULL and rank.layout.tensor == 1:
            terms.append(_casts(rank))
        return (*terms, *_batch(rank))
    if rank.layout.zero < 3:
        terms.append(_copies(rank, _whole(rank), size))
    if rank.layout.zero == 1:
        terms.append(Term("gradients", rank.elements * FULL, "P"))
    else:
        terms.append(Term("sharded gradients", rank.shard * FULL, _share(rank)))
    return (*terms, *_batch(rank))


def _rest(rank: Rank) -> tuple[Term, ...]:
    """After the step: gradients stay until the next step's first forward."""
    return (*_persistent(rank), Term("gradients", rank.shard * FULL, _share(rank)))


def _batch(rank: Rank) -> tuple[Term, ...]:
    return (Term("batch", rank.batch, f"{rank.micro_batches} micro-batches"),) if rank.batch else ()


def _moments(rank: Rank) -> Iterator[tuple[str, tuple[Term, ...]]]:
    """The moments of a step at which memory may be highest, with their terms."""
    yield "update", _update(rank)
    if rank.layout.shard == 1:
        yield from _replica(rank)
        return
    last = rank.micro_batches - 1
    for index in sorted({0, min(1, last), max(last - 1, 0), last}):
        yield from Walk(rank, index).moments()


def _update(rank: Rank) -> tuple[Term, ...]:
    copy = Term("gradients with decay", rank.shard * FULL, _share(rank))
    return (*_rest(rank), *((copy,) if rank.decay_copy else ()), *_batch(rank))


def _activations(rank: Rank, kept: int, waiting: int) -> tuple[Term, ...]:
    terms = (
        Term("activations", kept, "of a micro-batch"),
        Term("waiting activations", waiting, "of micro-batches before their backward"),
        Term("messages", rank.messages, f"{rank.micro_batches} micro-batches to other stages"),
    )
    return tuple(term for term in terms if term.bytes)


def _replica(rank: Rank) -> Iterator[tuple[str, tuple[Term, ...]]]:
    """Without ZeRO: what is held, the activations, and the gradients that are about to be added to their sums."""
    held = _held(rank)
    if rank.compute != FULL and rank.layout.tensor > 1:
        held = (*held, _casts(rank))
    tied = sum(piece.tied for piece in rank.pieces)
    largest = max((piece.largest for piece in rank.pieces if not piece.tied), default=0)
    first = (Term("first gradient of a tied weight", tied * FULL, "waits for the second"),) if tied else ()
    activations = _activations(rank, max(rank.kept, default=0), (max(rank.alive) - 1) * rank.waiting)
    yield "backward", (*held, Term("a new gradient", largest * FULL, "the largest parameter's"), *first, *activations)
    casts = rank.elements * rank.compute if rank.compute != FULL and rank.micro_batches > 1 else 0
    late = (Term("bf16 gradients", casts, "cast when backward ends"),) if casts else ()
    yield "end of backward", (*held, *late, *_twice(tied, FULL, 3))


def _twice(tied: int, size: int, times: int) -> tuple[Term, ...]:
    """autograd adds the two gradients of a tied weight out of place: both and their sum are alive at once."""
    return (Term("gradients of a tied weight", times * tied * size, "both and their sum"),) if tied else ()


class Walk:
    """One backward under fully_shard, from the last unit to the first."""

    def __init__(self, rank: Rank, micro_batch: int) -> None:
        self.rank, self.first, self.last = rank, micro_batch == 0, micro_batch == rank.micro_batches - 1
        self.waiting = (rank.alive[micro_batch] - 1) * rank.waiting
        self.stage, self.degree = rank.layout.zero, rank.layout.shard
        self.reduces = self.last or self.stage >= 2
        self.stays = self.stage < 3  # gathered parameters stay from one unit's use to the last backward
        self.open: list[Piece] = []  # reached, reduced at the end
        self.reduced: list[Piece] = []

    def moments(self) -> Iterator[tuple[str, tuple[Term, ...]]]:
        """(name, terms) of each moment, in order."""
        for index, piece in enumerate(self.rank.pieces):
            if piece.last:
                self.open.append(piece)
                yield self._moment(f"backward of {piece.label}", index, self.open, [])
                continue
            yield self._moment(f"backward of {piece.label}", index, [*self.open, piece], [])
            yield from self._reduce(piece, index)
        for piece in list(self.open):
            index = len(self.rank.pieces) - 1
            name, terms = self._moment(f"end of backward, {piece.label}", index, self.open, [])
            yield name, (*terms, *_twice(piece.tied, self.rank.compute, 2))
            self.open.remove(piece)
            yield from self._reduce(piece, index)

    def _reduce(self, piece: Piece, index: int) -> Iterator[tuple[str, tuple[Term, ...]]]:
        if self.reduces:
            yield self._moment(f"reduction of {piece.label}", index, [*self.open, piece], [piece])
        self.reduced.append(piece)

    def _moment(
        self, name: str, index: int, alive: Sequence[Piece], reducing: Sequence[Piece]
    ) -> tuple[str, tuple[Term, ...]]:
        terms = (
            *_persistent(self.rank),
            self._gathered(index, alive, reducing),
            *self._gradients(alive, reducing),
            self._buffers(reducing),
            self._replicas(),
            *_activations(self.rank, self.rank.kept[index], self.waiting),
            *_batch(self.rank),
        )
        return name, tuple(term for term in terms if term.bytes)

    def _gathered(self, index: int, alive: Sequence[Piece], reducing: Sequence[Piece]) -> Term:
        if self.stays:
            gone = [*self.reduced, *reducing] if self.last else []
            pieces = [piece for piece in self.rank.pieces if piece not in gone]
            return self._copies(pieces, "P" if not gone else "P without what is done")
        pieces = [piece for piece in alive if piece not in reducing]
        ahead = [piece for piece in self.rank.pieces[index + 1 :] if not piece.last][:1]
        label = " + ".join(piece.label for piece in pieces)
        if ahead and alive and alive[-1] is self.rank.pieces[index]:
            return self._copies([*pieces, *ahead], f"{label} + {ahead[0].label} ahead")
        return self._copies(pieces, label)

    def _copies(self, pieces: Sequence[Piece], label: str) -> Term:
        return _copies(self.rank, sum(piece.gathered(self.degree) for piece in pieces), label)

    def _gradients(self, alive: Sequence[Piece], reducing: Sequence[Piece]) -> Iterator[Term]:
        label = " + ".join(piece.label for piece in alive)
        if self.stage == 1 and not self.first:
            left = [piece for piece in self.rank.pieces if not (self.last and piece in self.reduced)]
            yield Term("gradients", sum(p.elements for p in left) * FULL, "P")
            if not reducing:
                size = sum(piece.tied or piece.largest for piece in alive) * self.rank.compute
                yield Term("new gradients", size, "the largest parameter's, and a tied weight's")
        elif self.stage == 1 and not self.last:
            done = [*self.reduced, *alive]
            yield Term("gradients", sum(p.elements for p in done) * FULL, "P")
        else:
            yield Term("full gradients", sum(p.elements for p in alive) * self.rank.compute, label)
        if self.stage >= 2 or self.last:
            shards = self.reduced if self.first or self.stage == 1 else self.rank.pieces
            yield Term("sharded gradients", sum(p.shard for p in shards) * FULL, f"P/{self.degree}")

    def _buffers(self, reducing: Sequence[Piece]) -> Term:
        """The input of a reduce-scatter lives until the next one starts; its output is new while it runs."""
        name = "reduce-scatter buffer"
        if reducing:
            size = sum(piece.gathered(self.degree) + piece.shard for piece in reducing) * FULL
            return Term(name, size, f"{reducing[0].label}, in and out")
        before = self.reduced[-1:] if self.reduces else []
        return Term(name, sum(p.gathered(self.degree) for p in before) * FULL, "".join(p.label for p in before))

    def _replicas(self) -> Term:
        """Summed over replicas of shards too, a unit's sum is kept beside its gradient until backward ends."""
        held = self.rank.layout.replicate > 1 and self.reduces and not self.first
        size = sum(piece.shard for piece in self.reduced) if held else 0
        return Term("sums over replicas", size * FULL, f"P/{self.degree} of what is reduced")
