"""What does a rank of `verify model` do? It makes the trial's batches, equal on every rank, and compares."""

from dataclasses import asdict
from functools import partial
from typing import Any

import torch

from ..models.catalog import configure, find
from ..models.draw import draw, keys
from ..models.entry import Entry
from ..trainers.data.dataset import open_data
from ..trainers.data.loader import Loader
from ..trainers.data.order import Order
from ..trainers.equivalence import STEPS, Findings, Trial, alone, compare, steps_of
from ..trainers.layout import parse_strategy
from ..trainers.options import DataOptions, OptimizerOptions
from ..trainers.terms import Batch
from ..trainers.world import Worker

MICRO_BATCHES = 2  # of a data rank in one step
SAMPLES = 2  # of a micro-batch
COUPLED = 8  # of one whose samples are coupled: normalised over two, each value is +1 or -1 but for rounding
TOKENS = 16  # of a sample, at most


def verify(
    worker: Worker,
    model: str,
    preset: str,
    config: dict[str, Any],
    data: str,
    strategy: str,
    optimizer: dict[str, Any],
    dtype: str = "fp32",
) -> dict[str, float] | None:
    """The differences that a strategy makes, on rank 0; arguments as in verify_each."""
    found = verify_each(worker, model, preset, config, data, [strategy], optimizer, dtype)
    return None if found is None else found[strategy]


def verify_each(
    worker: Worker,
    model: str,
    preset: str,
    config: dict[str, Any],
    data: str,
    strategies: list[str],
    optimizer: dict[str, Any],
    dtype: str = "fp32",
) -> dict[str, dict[str, float]] | None:
    """The differences that each of some strategies of this many ranks makes, on rank 0.

    Args:
        model, preset, config: as in [model] of a job file.
        data: a data.name, where it is not the entry's own.
        strategies: as parse_strategy reads them.
        optimizer: fields of the job's own [optimizer].
        dtype: as in [train]; one process computes in fp32 whatever it is.
    """
    entry = find(model)
    sizes = configure(entry, preset, config)
    each = 1 if entry.coupled == "batch" else MICRO_BATCHES
    references: dict[int, Findings] = {}
    verdicts: dict[str, dict[str, float]] = {}
    for strategy in strategies:
        layout = parse_strategy(strategy)
        batches = trial_batches(entry, sizes, data, layout.data * each)
        tokens = batches[0][0]["inputs"].shape[1] if entry.data == "tokens" else 0
        trial = Trial(entry, sizes, OptimizerOptions(**optimizer), each, tokens, dtype=dtype)
        known = partial(_reference, references, trial, batches, layout.data)
        if found := compare(worker, trial, layout, batches, known):
            verdicts[strategy] = asdict(found)
    return verdicts if worker.rank == 0 else None


def _reference(references: dict[int, Findings], trial: Trial, batches: list[list[Batch]], data: int) -> Findings:
    """What one process finds, computed once for each number of data ranks: they decide what a global batch holds."""
    if data not in references:
        references[data] = alone(trial, batches, data)
    return references[data]


def trial_batches(entry: Entry, config: Any, data: str, portions: int) -> list[list[Batch]]:
    """For each step of a trial so many micro-batches, of what the entry reads.

    Raises:
        ValueError: it reads samples of a data set, and none is named.
    """
    steps = steps_of(entry)
    if entry.data == "experience":
        return slot_batches(steps, portions)
    if entry.data == "tokens":
        return token_batches(config.vocab_size, min(TOKENS, getattr(config, "context", TOKENS)), portions, steps)
    return own_batches(entry, data or entry.dataset, portions, steps)


def slot_batches(steps: int, portions: int) -> list[list[Batch]]:
    """The same slots at every step, each time with new keys."""
    slots = [torch.arange(SAMPLES) + SAMPLES * portion for portion in range(portions)]
    return [[{"sample": slot, "key": keys(0, step, slot)} for slot in slots] for step in range(steps)]


def token_batches(vocabulary: int, tokens: int, portions: int, count: int = STEPS) -> list[list[Batch]]:
    """Random tokens, step by step and portion by portion.

    The later a portion, the more of its targets count for nothing, so that a mean of means cannot pass for a mean.
    """
    steps: list[list[Batch]] = []
    for step in range(count):
        steps.append([])
        for portion in range(portions):
            sample = torch.arange(SAMPLES) + SAMPLES * (portion + portions * step)
            key = keys(0, step, sample)
            text = (draw(key, "text", (tokens + 1,)) * vocabulary).long()
            ignored = draw(key, "ignored", (tokens,)) < 0.8 * portion / portions
            targets = text[:, 1:].masked_fill(ignored, -100)
            steps[-1].append({"inputs": text[:, :-1], "targets": targets, "sample": sample, "key": key})
    return steps


def own_batches(entry: Entry, data: str, portions: int, steps: int) -> list[list[Batch]]:
    """The first samples of a user's data set.

    Raises:
        ValueError: no data set is named.
    """
    if not data:
        raise ValueError(
            f"{entry.name or 'this model'} reads samples of its own: name the data set that gives them "
            "(--data package.module:object)"
        )
    dataset = open_data(DataOptions(name=data), entry.data).train
    order = Order(len(dataset), seed=0)
    each = SAMPLES if entry.coupled == "none" else COUPLED
    loader = Loader(dataset, order, 0, each * portions, data_rank=0, data_degree=1, micro_batch=each)
    return [list(loader.load(step)) for step in range(steps)]
