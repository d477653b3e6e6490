"""How is training cut into portions? Steps of a run, shares of a global batch, micro-batches of a share; no torch."""

from collections.abc import Callable
from math import ceil

from .options import TrainOptions

BACKWARD = 3  # forward and backward take three times the FLOPs of forward


def total_steps(options: TrainOptions, samples: int, tokens: int | None) -> int:
    """Optimizer steps of a run.

    Args:
        samples: of one epoch.
        tokens: of one sample; None where data has no tokens, and a sample counts as one.

    Raises:
        ValueError: not exactly one of train.steps, train.tokens and train.epochs is given.
    """
    given = {name: getattr(options, name) for name in ("steps", "tokens", "epochs")}
    asked = {name: value for name, value in given.items() if value is not None}
    if len(asked) != 1:
        raise ValueError(
            f"exactly one of train.steps, train.tokens, train.epochs is needed, got {sorted(asked) or 'none'}"
        )
    ((name, value),) = asked.items()
    if name == "steps":
        return int(value)
    wanted: float = value * samples if name == "epochs" else value / (tokens or 1)
    return max(1, ceil(wanted / options.global_batch))


def share(global_batch: int, data: int) -> int:
    """Samples of one data rank in one step.

    Raises:
        ValueError: the global batch does not split evenly.
    """
    if global_batch % data:
        raise ValueError(
            f"train.global_batch={global_batch} is no multiple of the {data} data ranks (replicate x shard)"
        )
    return global_batch // data


def count_micro_batches(of_rank: int, micro_batch: int) -> int:
    """Micro-batches of a data rank's share.

    Raises:
        ValueError: the share does not split evenly.
    """
    if of_rank % micro_batch:
        legal = ", ".join(map(str, divisors(of_rank)))
        raise ValueError(f"train.micro_batch={micro_batch} does not divide a rank's {of_rank} samples (legal: {legal})")
    return of_rank // micro_batch


def divisors(number: int) -> list[int]:
    """All divisors, rising."""
    return [i for i in range(1, number + 1) if number % i == 0]


def settle(of_rank: int, start: int, fits: Callable[[int], bool]) -> int:
    """The largest micro-batch, from `start` downwards, that divides a rank's share and fits.

    Raises:
        MemoryError: not even one sample fits.
    """
    for size in reversed([size for size in divisors(of_rank) if size <= max(1, start)]):
        if fits(size):
            return size
    raise MemoryError(
        "not even a micro-batch of one sample fits into memory: split the model further (parallel.zero = 3, "
        'parallel.tensor, parallel.pipeline), set train.recompute = "full", or shorten the samples'
    )
