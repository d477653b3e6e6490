"""How long do the ranks of a pipeline wait? Its order played through with given durations; without torch.

An action starts as soon as its rank has done the one before it and what it needs has arrived; messages take no time.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from .pipeline_order import Action, Schedule


class Durations(NamedTuple):
    """Of one micro-batch in all that a rank holds; a chunk takes its share. Any unit of time."""

    forward: float = 1.0
    inputs: float = 1.0  # backward as far as the gradients of the inputs
    weights: float = 1.0  # the gradients of the weights; part of "B" where a schedule does not split


EQUAL = Durations()


@dataclass(frozen=True)
class Span:
    """An action and when it ran."""

    action: Action
    start: float
    end: float


def simulate(schedule: Schedule, ranks: int, micro_batches: int, durations: Durations = EQUAL) -> list[list[Span]]:
    """When each rank's actions run, rank by rank.

    Raises:
        ValueError: the ranks wait for each other for ever.
    """
    queues = [deque(schedule.order(rank, ranks, micro_batches)) for rank in range(ranks)]
    spans: list[list[Span]] = [[] for _ in range(ranks)]
    ends: dict[tuple[str, int, int], float] = {}  # kind, micro-batch, virtual stage
    while any(queues):
        left = sum(map(len, queues))
        for rank, queue in enumerate(queues):
            while queue and (ready := _ready(schedule, ranks, rank, queue[0], ends)) is not None:
                action = queue.popleft()
                start = max(ready, spans[rank][-1].end if spans[rank] else 0.0)
                end = start + _duration(schedule, action, durations)
                ends[action.kind, action.micro_batch, schedule.stage(rank, ranks, action.chunk)] = end
                spans[rank].append(Span(action, start, end))
        if sum(map(len, queues)) == left:
            raise ValueError(f"a deadlock: the ranks wait at {[queue[0].label if queue else '-' for queue in queues]}")
    return spans


def bubble(spans: Sequence[Sequence[Span]]) -> float:
    """The share of all ranks' time, from the first start to the last end, in which a rank waits."""
    start = min(span.start for rank in spans for span in rank)
    end = max(span.end for rank in spans for span in rank)
    busy = sum(span.end - span.start for rank in spans for span in rank)
    return 1 - busy / (len(spans) * (end - start))


def _ready(
    schedule: Schedule, ranks: int, rank: int, action: Action, ends: dict[tuple[str, int, int], float]
) -> float | None:
    """When everything that an action needs is there; None if that is not known yet."""
    kind, micro_batch, chunk = action
    stage = schedule.stage(rank, ranks, chunk)
    if kind == "W":
        return ends.get(("B", micro_batch, stage))
    if kind == "B":
        last = stage + 1 == ranks * schedule.chunks
        return ends.get(("F", micro_batch, stage) if last else ("B", micro_batch, stage + 1))
    return ends.get(("F", micro_batch, stage - 1)) if stage else 0.0


def _duration(schedule: Schedule, action: Action, durations: Durations) -> float:
    backward = durations.inputs + (0.0 if schedule.split else durations.weights)
    return {"F": durations.forward, "B": backward, "W": durations.weights}[action.kind] / schedule.chunks
