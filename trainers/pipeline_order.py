"""In which order does a stage work on its micro-batches? Pure lists of actions, without torch.

Both orders do every forward and every backward once, each in rising order of micro-batches; they differ in how many
forwards wait for their backward (memory), not in the bubble of (p - 1) / (m + p - 1).
"""

from collections.abc import Iterator
from typing import Literal, NamedTuple


class Action(NamedTuple):
    """Forward ("F") or backward ("B") of one micro-batch."""

    kind: Literal["F", "B"]
    micro_batch: int


def gpipe(stage: int, stages: int, micro_batches: int) -> Iterator[Action]:
    """All forwards, then all backwards (Huang et al. 2019)."""
    for i in range(micro_batches):
        yield Action("F", i)
    for i in range(micro_batches):
        yield Action("B", i)


def one_forward_one_backward(stage: int, stages: int, micro_batches: int) -> Iterator[Action]:
    """A warm-up of forwards, then one forward and one backward in turn (Narayanan et al. 2019, PipeDream-Flush)."""
    ahead = min(micro_batches, stages - 1 - stage)
    for i in range(ahead):
        yield Action("F", i)
    for i in range(ahead, micro_batches):
        yield Action("F", i)
        yield Action("B", i - ahead)
    for i in range(micro_batches - ahead, micro_batches):
        yield Action("B", i)


ORDERS = {"gpipe": gpipe, "1f1b": one_forward_one_backward}


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
