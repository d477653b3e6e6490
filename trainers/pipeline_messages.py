"""How do tensors travel between two consecutive virtual stages? By messages, or from hand to hand on one rank.

Messages of one direction between two virtual stages keep the order of micro-batches, so they are matched without
names. On a GPU the messages of one communicator wait for one another, and two ranks that send to each other on the same
one wait for ever: so each direction of each pair of virtual stages has a communicator to itself on its two ranks.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import torch
import torch.distributed as dist
from torch import Tensor

from ..models.entry import Shape
from .mesh import Mesh, new_group
from .pipeline_order import Schedule

Kind = tuple[Shape, torch.dtype]


class Wire(Protocol):
    """One direction between two virtual stages."""

    def send(self, tensors: Sequence[Tensor]) -> None:
        """Start a message; what it needs of the tensors is kept until it has arrived."""

    def receive(self, kinds: Sequence[Kind]) -> list[Tensor]:
        """Wait for the next message: tensors of these shapes and dtypes."""

    def arrived(self) -> None:
        """The oldest message is known to have arrived: let go of it."""

    def finish(self) -> None:
        """Wait until every message has arrived."""


class Hand:
    """Both ends are on this rank."""

    def __init__(self) -> None:
        self.messages: deque[list[Tensor]] = deque()

    def send(self, tensors: Sequence[Tensor]) -> None:
        """Lay the tensors ready."""
        self.messages.append([x.detach() for x in tensors])

    def receive(self, kinds: Sequence[Kind]) -> list[Tensor]:
        """Take what was laid ready first."""
        return self.messages.popleft()

    def arrived(self) -> None:
        """Nothing is kept."""

    def finish(self) -> None:
        """Nothing is on its way."""


class Link:
    """The other end is on another rank."""

    def __init__(self, group: dist.ProcessGroup, peer: int, device: torch.device) -> None:
        self.group, self.peer, self.device = group, peer, device
        self.sent: deque[list[tuple[dist.Work | None, Tensor]]] = deque()

    def send(self, tensors: Sequence[Tensor]) -> None:
        """Start sending. gloo tells only to who waits that a message has gone, so tensors are kept until then."""
        payload = [x.detach().contiguous() for x in tensors]
        self.sent.append([(dist.isend(x, self.peer, group=self.group), x) for x in payload])

    def receive(self, kinds: Sequence[Kind]) -> list[Tensor]:
        """Wait for tensors of these shapes and dtypes."""
        found = [torch.empty(shape, dtype=dtype, device=self.device) for shape, dtype in kinds]
        _wait(dist.irecv(x, self.peer, group=self.group) for x in found)
        return found

    def arrived(self) -> None:
        """Let go of the oldest message."""
        _wait(work for work, _ in self.sent.popleft())

    def finish(self) -> None:
        """Wait for all messages."""
        while self.sent:
            self.arrived()


def _wait(works: Iterator[dist.Work | None]) -> None:
    for work in list(works):
        if work is not None:
            work.wait()


@dataclass
class Boundary:
    """Where one virtual stage ends and the next begins, seen from either side."""

    forward: Wire
    backward: Wire
    announced: dict[str, tuple[bool, ...]] = field(default_factory=dict)  # phase -> which tensors need a gradient
    heard: dict[str, tuple[bool, ...]] = field(default_factory=dict)  # the same, on the later side

    def give(self, outputs: Sequence[Tensor]) -> None:
        """The earlier stage sends what the later one takes."""
        self.forward.send(outputs)

    def take(self, kinds: Sequence[Kind]) -> list[Tensor]:
        """The later stage receives it."""
        return self.forward.receive(kinds)

    def announce(self, phase: str, outputs: Sequence[Tensor]) -> tuple[bool, ...]:
        """The earlier stage tells once, with a phase's first forward, which of the tensors need a gradient.

        Raises:
            RuntimeError: it is not the same for every micro-batch.
        """
        flags = tuple(x.requires_grad for x in outputs)
        if phase not in self.announced:
            self.announced[phase] = flags
            self.forward.send([torch.tensor(flags, dtype=torch.uint8, device=outputs[0].device)])
        if self.announced[phase] != flags:
            raise RuntimeError(
                f"of the tensors between two stages {self.announced[phase]} needed a gradient and now {flags}; "
                "which ones do must not depend on the batch"
            )
        return flags

    def hear(self, phase: str, inputs: Sequence[Tensor]) -> tuple[bool, ...]:
        """The later stage learns which of its inputs need a gradient."""
        if phase not in self.heard:
            (flags,) = self.forward.receive([((len(inputs),), torch.uint8)])
            self.heard[phase] = tuple(map(bool, flags.tolist()))
        return self.heard[phase]

    def finish(self) -> None:
        """Wait until everything sent has arrived."""
        self.forward.finish()
        self.backward.finish()


def boundaries(mesh: Mesh, schedule: Schedule) -> list[Boundary | None]:
    """One between each two virtual stages that this rank takes part in, None for the others. Collective."""
    ranks, me = mesh.layout.pipeline, mesh.place.pipeline
    ends = [(schedule.place(s, ranks)[0], schedule.place(s + 1, ranks)[0]) for s in range(ranks * schedule.chunks - 1)]
    lanes = [sum(set(other) == set(pair) for other in ends[:index]) for index, pair in enumerate(ends)]
    used = [lane for lane, (first, second) in zip(lanes, ends, strict=True) if first != second]
    groups = [(_along(mesh), _along(mesh)) for _ in range(max(used) + 1)]
    found: list[Boundary | None] = []
    for lane, pair in zip(lanes, ends, strict=True):
        if me not in pair:
            found.append(None)
        elif pair[0] == pair[1]:
            found.append(Boundary(Hand(), Hand()))
        else:
            other = pair[0] if pair[1] == me else pair[1]
            forward, backward = (Link(g, dist.get_process_group_ranks(g)[other], mesh.device) for g in groups[lane])
            found.append(Boundary(forward, backward))
    return found


def _along(mesh: Mesh) -> dist.ProcessGroup:
    """A new group of this rank's pipeline. Collective over the world."""
    group = new_group(mesh.layout, mesh.rank, lambda place: replace(place, pipeline=0))
    assert group is not None
    return group


def checked(outputs: Sequence[Tensor], kinds: Sequence[Kind]) -> list[Tensor]:
    """The outputs in the dtypes that the next stage expects.

    Raises:
        ValueError: they are not the tensors that the entry's boundary names.
    """
    expected = [shape for shape, _ in kinds]
    if [tuple(x.shape) for x in outputs] != [tuple(shape) for shape in expected]:
        shapes = [tuple(x.shape) for x in outputs]
        raise ValueError(f"a stage returned tensors of shapes {shapes}, but the entry's boundary names {expected}")
    return [_as(x, dtype) for x, (_, dtype) in zip(outputs, kinds, strict=True)]


def _as(x: Tensor, dtype: torch.dtype) -> Tensor:
    if x.dtype == dtype:
        return x
    if not (x.is_floating_point() and dtype.is_floating_point):
        raise ValueError(f"a stage returned a {x.dtype} tensor, but the entry's boundary names {dtype}")
    return x.to(dtype)
