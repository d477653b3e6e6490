"""In which order does a rank work on its micro-batches, and where do the parts of a model sit? Without torch.

The model is cut into ranks x chunks virtual stages. Every order does the forward and the backward of each micro-batch
once in each chunk, both in rising order of micro-batches, and can be followed for any number of them. An order made
for more micro-batches than there are leaves the surplus out: what a rank waits for is always of the same micro-batch.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple


class Action(NamedTuple):
    """One micro-batch in one chunk: forward ("F"), backward ("B"), or, where backward is split, its weights ("W")."""

    kind: Literal["F", "B", "W"]
    micro_batch: int
    chunk: int = 0

    @property
    def label(self) -> str:
        """Its name in a trace: "F3", or "F3.1" in a rank's second chunk."""
        return f"{self.kind}{self.micro_batch}" + (f".{self.chunk}" if self.chunk else "")


def gpipe(rank: int, ranks: int, micro_batches: int) -> Iterator[Action]:
    """All forwards, then all backwards (Huang et al. 2019)."""
    for i in range(micro_batches):
        yield Action("F", i)
    for i in range(micro_batches):
        yield Action("B", i)


def one_forward_one_backward(rank: int, ranks: int, micro_batches: int) -> Iterator[Action]:
    """A warm-up of forwards, then one forward and one backward in turn (Narayanan et al. 2019, PipeDream-Flush)."""
    ahead = min(micro_batches, ranks - 1 - rank)
    for i in range(ahead):
        yield Action("F", i)
    for i in range(ahead, micro_batches):
        yield Action("F", i)
        yield Action("B", i - ahead)
    for i in range(micro_batches - ahead, micro_batches):
        yield Action("B", i)


def interleaved(rank: int, ranks: int, micro_batches: int, chunks: int = 2) -> Iterator[Action]:
    """1F1B over several chunks a rank, in rounds of `ranks` micro-batches (Narayanan et al. 2021, section 2.2).

    A round goes through the rank's first chunk, then through its second, and so on; backward takes the chunks in the
    opposite order. The last round may have fewer micro-batches.
    """
    rounds = -(-micro_batches // ranks)
    forwards = [(r * ranks + i, c) for r in range(rounds) for c in range(chunks) for i in range(ranks)]
    backwards = [(i, chunks - 1 - c) for i, c in forwards]
    ahead = min(len(forwards), 2 * (ranks - 1 - rank) + (chunks - 1) * ranks)
    actions = [Action("F", *forward) for forward in forwards[:ahead]]
    for forward, backward in zip(forwards[ahead:], backwards, strict=False):
        actions += [Action("F", *forward), Action("B", *backward)]
    actions += [Action("B", *backward) for backward in backwards[len(forwards) - ahead :]]
    return (action for action in actions if action.micro_batch < micro_batches)


def zbv(rank: int, ranks: int, micro_batches: int) -> Iterator[Action]:
    """Two chunks placed as a V, backward split in two (Qi et al. 2024, "Zero Bubble Pipeline Parallelism", ZB-V).

    The first micro-batch comes back up the V as early as it can; then each rank does F B W of one chunk and of the
    other in turn. At the end weights are left for last, while backwards are on their way to other ranks.
    """
    most = max(micro_batches, 2 * ranks - 1)
    plan = _Plan(most)
    plan.add(2 * (ranks - rank) - 1, "F0")
    plan.add(rank, "F1 F0")
    plan.add(ranks - rank, "F1 B1 W1")
    plan.add(most, "F0 B0 W0 F1 B1 W1", until="F")
    plan.add(rank, "B0 B1")
    plan.add(ranks - rank, "B0 W0")
    plan.add(most, "W1")
    plan.add(most, "W0")
    return (action for action in plan.actions if action.micro_batch < micro_batches)


class _Plan:
    """Writes an order down: each action is of the next micro-batch that has not had it."""

    def __init__(self, micro_batches: int) -> None:
        self.micro_batches = micro_batches
        self.actions: list[Action] = []
        self.next: dict[str, int] = {}

    def add(self, times: int, actions: str, until: str = "") -> None:
        """Repeat some actions ("F0" is the forward of chunk 0), skipping what every micro-batch has had.

        Args:
            until: stop as soon as every micro-batch has had this kind in both chunks.
        """
        for _ in range(times):
            if until and all(self.next.get(f"{until}{chunk}", 0) == self.micro_batches for chunk in (0, 1)):
                return
            for name in actions.split():
                self._append(name)

    def _append(self, name: str) -> None:
        micro_batch = self.next.get(name, 0)
        if micro_batch < self.micro_batches:
            self.actions.append(Action(name[0], micro_batch, int(name[1])))  # type: ignore[arg-type]
            self.next[name] = micro_batch + 1


@dataclass(frozen=True)
class Schedule:
    """An order and the placement that it is made for."""

    order: Callable[[int, int, int], Iterator[Action]]  # (rank, ranks, micro-batches)
    chunks: int = 1  # virtual stages of one rank
    folded: bool = False  # the second chunks run back, as a V, instead of starting again at the first rank
    split: bool = False  # backward is two actions, B for the inputs' gradients and W for the weights'

    def stage(self, rank: int, ranks: int, chunk: int) -> int:
        """The virtual stage that is a rank's chunk; the model's first is 0."""
        return 2 * ranks - 1 - rank if self.folded and chunk else chunk * ranks + rank

    def place(self, stage: int, ranks: int) -> tuple[int, int]:
        """(rank, chunk) of a virtual stage."""
        chunk, rank = divmod(stage, ranks)
        return (ranks - 1 - rank if self.folded and chunk else rank), chunk


SCHEDULES = {
    "gpipe": Schedule(gpipe),
    "1f1b": Schedule(one_forward_one_backward),
    "interleaved": Schedule(interleaved, chunks=2),
    "zbv": Schedule(zbv, chunks=2, folded=True, split=True),
}


def schedule_of(name: str, ranks: int) -> Schedule:
    """The schedule of a pipeline of so many ranks; one rank takes its micro-batches in turn."""
    return SCHEDULES[name if ranks > 1 else "1f1b"]


def splits_backward(schedule: Schedule, shards: int, recompute: str) -> bool:
    """Whether a backward is done in two actions; otherwise a split schedule's B does all of it and its W nothing.

    fully_shard reduces a unit's gradients as soon as its input has one, and a unit is computed again once a backward.
    """
    return schedule.split and shards == 1 and recompute == "none"


def cut(weights: list[int], stages: int) -> list[range]:
    """Consecutive units for each stage, so that the heaviest stage is as light as can be.

    Args:
        weights: cost of each unit, in order.

    Raises:
        ValueError: there are fewer units than stages.
    """
    if stages > len(weights):
        raise ValueError(f"pipeline={stages} needs at least {stages} units, but the model has {len(weights)}")
    best: list[list[tuple[float, int]]] = [[(float("inf"), 0)] * (len(weights) + 1) for _ in range(stages + 1)]
    best[0][0] = (0, 0)
    for stage in range(1, stages + 1):
        for end in range(stage, len(weights) + 1):
            best[stage][end] = min(
                (max(best[stage - 1][start][0], sum(weights[start:end])), start) for start in range(stage - 1, end)
            )
    ranges, end = [], len(weights)
    for stage in range(stages, 0, -1):
        start = best[stage][end][1]
        ranges.append(range(start, end))
        end = start
    return ranges[::-1]
