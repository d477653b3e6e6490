"""What is alive at each moment of a step? The walk of backward through the pieces, term by term.

P is this rank's parameters in fp32; P/4 is the share of one of four shard ranks. Master parameters, sums of gradients
and optimizer states are fp32; what forward and backward touch is in the run's dtype.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from .layout import Layout
from .memory_pieces import Backward, Kept, Piece

FULL = 4  # bytes of an fp32 number


@dataclass(frozen=True)
class Term:
    """One part of a sum of bytes."""

    name: str
    bytes: int
    formula: str


@dataclass(frozen=True)
class Moment:
    """A moment of a step, with everything that is alive then."""

    name: str
    terms: tuple[Term, ...]


@dataclass(frozen=True)
class Chunk:
    """One of the parts of the model on a rank."""

    pieces: tuple[Piece, ...]  # in the order in which backward reaches them
    kept: Kept


@dataclass(frozen=True)
class Rank:
    """What the formulas need to know of one rank."""

    layout: Layout
    chunks: tuple[Chunk, ...]
    backwards: tuple[Backward, ...]  # in their order
    states: int  # tensors that the optimizer keeps for each parameter
    decay_copy: bool  # the update adds the decay to a copy of the gradients
    compute: int  # bytes of a number in forward and backward
    batch: int  # bytes of a step's micro-batches
    split: bool  # whether backward is done in two actions
    message: int  # bytes of the tensors between two stages

    @property
    def sharded(self) -> bool:
        """Whether fully_shard holds the parameters."""
        return self.layout.shards > 1

    @property
    def pieces(self) -> tuple[Piece, ...]:
        """Of all its chunks."""
        return tuple(piece for chunk in self.chunks for piece in chunk.pieces)

    @property
    def elements(self) -> int:
        """Parameters of this rank before ZeRO splits them."""
        return sum(piece.elements for piece in self.pieces)

    @property
    def shard(self) -> int:
        """Parameters that stay on this rank, with the padding to equal shards."""
        return sum(piece.shard for piece in self.pieces)

    @property
    def trained(self) -> int:
        """Of `elements`, those with a gradient."""
        return sum(piece.trained for piece in self.pieces)

    @property
    def reduced(self) -> int:
        """Of `shard`, those with a gradient."""
        return sum(piece.reduced for piece in self.pieces)

    @property
    def updated(self) -> int:
        """Parameters that this rank updates: without copies that follow another chunk's weight, and frozen ones."""
        return sum(piece.updated for piece in self.pieces)

    @property
    def saved(self) -> int:
        """Parameters of this rank in a snapshot: without copies."""
        return self.shard - sum(piece.copied for piece in self.pieces)

    @property
    def share(self) -> str:
        """What stays on this rank, as a formula."""
        return f"P/{self.layout.shards}" if self.sharded else "P"

    @property
    def micro_batches(self) -> int:
        """Of one step."""
        return len(self.backwards) // len(self.chunks)


def held(rank: Rank) -> tuple[Term, ...]:
    """Between two micro-batches: Rajbhandari et al. 2020, and the sharded copy that fully_shard keeps beside it."""
    gathered = sum(gathered_elements(rank, piece) for piece in rank.pieces)
    dtype = "P" if rank.compute == FULL else f"{rank.compute}/{FULL} P"
    if not rank.sharded:
        cached = rank.elements if rank.layout.tensor == 1 else 0
        middle = (Term("gradients", rank.trained * FULL, "P"), *_casts(rank, cached))
    elif rank.layout.zero == 1:
        whole = Term("gradients", rank.trained * FULL, "P")
        middle = (Term("gathered parameters", gathered * rank.compute, dtype), whole)
    else:
        stays = gathered * rank.compute if rank.layout.zero == 2 else 0
        shards = Term("gradient shards", rank.reduced * FULL, rank.share)
        middle = (Term("gathered parameters", stays, dtype), shards)
    return _some(*_persistent(rank), *middle, *_batch(rank))


def rest(rank: Rank) -> tuple[Term, ...]:
    """After a step: the gradients stay until the next one clears them."""
    return _some(*_persistent(rank), Term("gradients", rank.reduced * FULL, rank.share))


def moments(rank: Rank) -> Iterator[Moment]:
    """The moments of a step at which memory may be highest."""
    yield _update(rank)
    if not rank.sharded:
        yield from _replica(rank)
        return
    last = rank.micro_batches - 1
    for backward in rank.backwards:
        if backward.micro_batch in {0, 1, last - 1, last}:
            yield from Walk(rank, backward).moments()


def gathered_elements(rank: Rank, piece: Piece) -> int:
    """Elements of a gathered piece, the padding of its shards included; split experts are never gathered."""
    return 0 if piece.apart else piece.shard * rank.layout.shards


def reduced_elements(rank: Rank, piece: Piece) -> int:
    """Elements of the gradients that a piece's reduce-scatter takes in."""
    return 0 if piece.apart else piece.reduced * rank.layout.shards


def _some(*terms: Term) -> tuple[Term, ...]:
    """The terms that take any bytes."""
    return tuple(term for term in terms if term.bytes)


def _persistent(rank: Rank) -> tuple[Term, ...]:
    states = rank.states * rank.updated * FULL
    formula = rank.share if rank.states == 1 else f"{rank.states} x {rank.share}"
    return Term("parameters", rank.shard * FULL, rank.share), Term("optimizer states", states, formula)


def _batch(rank: Rank) -> tuple[Term, ...]:
    return (Term("batch", rank.batch, _micro_batches(rank)),)


def _micro_batches(rank: Rank) -> str:
    return "1 micro-batch" if rank.micro_batches == 1 else f"{rank.micro_batches} micro-batches"


def _casts(rank: Rank, elements: int) -> tuple[Term, ...]:
    """What autocast made of the parameters; it keeps that of whole layers from one micro-batch to the next."""
    if rank.compute == FULL:
        return ()
    return (Term("parameters in 16 bits", elements * rank.compute, f"{rank.compute}/{FULL} P, cast once a step"),)


def _activations(rank: Rank, reached: int, backward: Backward) -> tuple[Term, ...]:
    waiting = sum(n * chunk.kept.waiting for n, chunk in zip(backward.waiting, rank.chunks, strict=True))
    halfway = sum(n * chunk.kept.waiting for n, chunk in zip(backward.halfway, rank.chunks, strict=True))
    return (
        Term("activations", reached, "1 micro-batch"),
        Term("waiting activations", waiting, f"{sum(backward.waiting)} more before their backward"),
        Term("put off", 2 * halfway, f"{sum(backward.halfway)} micro-batches' activations, and as many gradients"),
        Term("messages", backward.messages * rank.message, f"{backward.messages} to other stages"),
    )


def _update(rank: Rank) -> Moment:
    copy = rank.updated * FULL if rank.decay_copy else 0
    return Moment("update", _some(*rest(rank), Term("gradients with decay", copy, rank.share), *_batch(rank)))


def _replica(rank: Rank) -> Iterator[Moment]:
    """Without ZeRO: what is held, the activations, and the gradients that are about to be added to their sums.

    A tied weight's first gradient waits for the second; autograd then adds them out of place, so that both and their
    sum are alive. Under autocast the casts of the first micro-batch are undone last in every later backward.
    """
    base = [*held(rank), *(_casts(rank, rank.elements) if rank.layout.tensor > 1 else ())]
    tied = sum(piece.tied for piece in rank.pieces) * FULL
    largest = max((piece.largest for piece in rank.pieces if not piece.tied), default=0) * FULL
    yield Moment(
        "backward",
        _some(
            *base,
            Term("a new gradient", largest, "the largest parameter's"),
            Term("a tied weight's gradient", tied, "the first waits for the second"),
            *max((_backward(rank, backward) for backward in rank.backwards), key=_sum),
        ),
    )
    ends = [
        _activations(rank, rank.chunks[b.chunk].kept.loss, b) for b in rank.backwards if rank.chunks[b.chunk].kept.loss
    ]
    yield Moment("loss", _some(*base, *max(ends, key=_sum, default=())))
    late = rank.trained * rank.compute if rank.compute != FULL and rank.micro_batches > 1 else 0
    undone = Term("gradients in 16 bits", late, f"{rank.compute}/{FULL} P, cast last")
    yield Moment("end of backward", _some(*base, undone, *_both(tied, times=3)))


def _backward(rank: Rank, backward: Backward) -> tuple[Term, ...]:
    """A split backward keeps all activations to its end, and for its weights' gradients at most as much again."""
    kept = rank.chunks[backward.chunk].kept
    again = kept.waiting if rank.split else 0
    put_off = Term("gradients put off", again, "at most its activations")
    return (*_activations(rank, max(kept.reached, default=0), backward), put_off)


def _sum(terms: Sequence[Term]) -> int:
    return sum(term.bytes for term in terms)


def _both(tied: int, times: int) -> tuple[Term, ...]:
    return (Term("a tied weight's gradients", times * tied, "both and their sum"),)


class Walk:
    """One backward under fully_shard, from the last unit to the first.

    A piece is gathered with the next one ahead (ZeRO-3), its gradient grows whole, then it is freed and its gradient
    goes through a reduce-scatter, whose input lives until the next one begins.
    """

    def __init__(self, rank: Rank, backward: Backward) -> None:
        self.rank, self.backward, self.zero = rank, backward, rank.layout.zero
        self.pieces, self.kept = rank.chunks[backward.chunk].pieces, rank.chunks[backward.chunk].kept
        self.beside = tuple(p for i, chunk in enumerate(rank.chunks) if i != backward.chunk for p in chunk.pieces)
        self.first, self.last = backward.micro_batch == 0, backward.micro_batch == rank.micro_batches - 1
        self.reduces = self.last or self.zero >= 2
        self.open: list[Piece] = []  # reached, and reduced when the backward has ended
        self.done: list[Piece] = []

    def moments(self) -> Iterator[Moment]:
        """Its moments, in order."""
        if self.kept.loss:
            yield self._moment("loss", None, ahead=self.pieces[:1] if self.zero == 3 else ())
        for index, piece in enumerate(self.pieces):
            self.open.append(piece)
            yield self._moment(f"backward of {piece.label}", index, ahead=self._ahead(index))
            if not piece.late:
                yield from self._finish(piece, index)
        index = len(self.pieces) - 1
        for piece in list(self.open):
            both = _both(piece.tied * self.rank.compute, times=2)
            yield self._moment(f"end of backward, {piece.label}", index, more=both)
            yield from self._finish(piece, index)

    def _ahead(self, index: int) -> list[Piece]:
        """What ZeRO-3 gathers while this piece is in backward."""
        return [piece for piece in self.pieces[index + 1 :] if not piece.late][:1] if self.zero == 3 else []

    def _finish(self, piece: Piece, index: int) -> Iterator[Moment]:
        if self.reduces:
            yield self._moment(f"reduction of {piece.label}", index, reducing=piece, ahead=self._ahead(index))
        self.open.remove(piece)
        self.done.append(piece)

    def _moment(
        self,
        name: str,
        index: int | None,
        reducing: Piece | None = None,
        ahead: Sequence[Piece] = (),
        more: tuple[Term, ...] = (),
    ) -> Moment:
        reached = self.kept.loss if index is None else self.kept.reached[index]
        terms = (
            *_persistent(self.rank),
            self._gathered(reducing, ahead),
            *self._gradients(reducing),
            self._other_gradients(),
            *more,
            self._buffers(reducing),
            self._replicas(),
            *_activations(self.rank, reached, self.backward),
            *_batch(self.rank),
        )
        return Moment(name, _some(*terms))

    def _gathered(self, reducing: Piece | None, ahead: Sequence[Piece]) -> Term:
        if self.zero == 3:
            pieces = [piece for piece in self.open if piece is not reducing]
            label = " + ".join([*(p.label for p in pieces), *(f"{p.label} ahead" for p in ahead)])
            pieces += ahead
        else:
            gone = [*self.done, *([reducing] if reducing else [])] if self.last else []
            pieces = [piece for piece in (*self.pieces, *self.beside) if piece not in gone]
            label = "what is not done" if gone else "all"
        size = sum(gathered_elements(self.rank, piece) for piece in pieces) * self.rank.compute
        return Term("gathered parameters", size, label)

    def _gradients(self, reducing: Piece | None) -> Iterator[Term]:
        if self.zero == 1 and not (self.first and self.last):
            yield from self._summed_gradients(reducing)
        else:
            size = sum(piece.trained for piece in self.open) * self.rank.compute
            yield Term("whole gradients", size, " + ".join(piece.label for piece in self.open))
        if self.reduces:
            shards = self.done if self.first or self.zero == 1 else self.pieces
            yield Term("gradient shards", sum(piece.reduced for piece in shards) * FULL, self.rank.share)

    def _other_gradients(self) -> Term:
        """Of the rank's other chunks: at most whole, where ZeRO-1 adds them up over the micro-batches."""
        whole = self.zero == 1 and self.rank.micro_batches > 1
        size = sum(piece.trained if whole else piece.reduced for piece in self.beside) * FULL
        return Term("gradients of other chunks", size, "whole" if whole else "shards")

    def _summed_gradients(self, reducing: Piece | None) -> Iterator[Term]:
        """ZeRO-1 adds up whole gradients over the micro-batches; a new one is alive beside the sum."""
        pieces = [*self.done, *self.open] if self.first else [*self.pieces]
        left = [piece for piece in pieces if not (self.last and piece in self.done)]
        label = "what is reached" if self.first else "P" if left == pieces else "what is not done"
        yield Term("gradients", sum(piece.trained for piece in left) * FULL, label)
        if reducing is None and not self.first:
            size = sum(piece.tied or piece.largest for piece in self.open) * self.rank.compute
            yield Term("new gradients", size, "the largest parameters'")

    def _buffers(self, reducing: Piece | None) -> Term:
        """The input of a reduce-scatter lives until the next one starts; its output is new while it runs."""
        if reducing is not None:
            size = reduced_elements(self.rank, reducing) + reducing.reduced
            return Term("reduce-scatter buffer", size * FULL, f"{reducing.label}, in and out")
        before = self.done[-1:] if self.reduces else []
        size = sum(reduced_elements(self.rank, piece) for piece in before)
        return Term("reduce-scatter buffer", size * FULL, "".join(piece.label for piece in before))

    def _replicas(self) -> Term:
        """Summed over replicas of shards too, a piece's sum is kept beside its gradient until backward ends."""
        stays = self.rank.layout.copies > 1 and self.reduces and not self.first
        size = sum(piece.reduced for piece in self.done) if stays else 0
        return Term("sums over replicas", size * FULL, f"of {self.rank.share} what is done")
