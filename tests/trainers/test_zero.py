"""ZeRO-1, 2 and 3 are what they communicate: collectives of a step of two micro-batches, counted."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from shardwright.jobs.verify import token_batches
from shardwright.models.axes import local
from shardwright.models.catalog import configure, find
from shardwright.trainers.layout import parse_strategy
from shardwright.trainers.mesh import build_mesh
from shardwright.trainers.parallelize import parallelize
from shardwright.trainers.world import Worker
from torch.utils._python_dispatch import TorchDispatchMode

CONFIG = {"vocab_size": 64, "context": 16, "width": 32, "layers": 4}
UNITS = 5  # four blocks, and one group of embedding and head, whose weight is tied


class Collectives(TorchDispatchMode):
    """Counts the collectives that a process group is asked for, by name."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function.namespace == "c10d":
            self.counts[function.overloadpacket.__name__.strip("_")] += 1
        return function(*args, **(kwargs or {}))


def collectives(worker: Worker, strategy: str) -> dict[str, int]:
    entry = find("gpt2")
    mesh = build_mesh(parse_strategy(strategy), worker.rank, worker.device)
    sharded = parallelize(entry, configure(entry, "tiny", CONFIG), mesh, seed=0, tokens=16)
    (batches,) = token_batches(64, 16, 2)[:1]
    sharded.run(batches)  # the first step initialises lazily
    with Collectives() as counted:
        sharded.run(batches)
    return counted.counts


@pytest.mark.parametrize(
    ("strategy", "gathers", "scatters"),
    [
        ("zero1", UNITS, UNITS),  # gathered in the first forward, reduced in the last backward
        ("zero2", UNITS, 2 * UNITS),  # reduced in every backward
        ("zero3", 4 * UNITS, 2 * UNITS),  # gathered in every forward and every backward
    ],
)
def test_collectives_of_a_step(ranks: Callable[..., list[Any]], strategy: str, gathers: int, scatters: int) -> None:
    for counts in ranks(collectives, 2, strategy=strategy):
        assert counts == {"allgather_base": gathers, "reduce_scatter_base": scatters}


def held_between(worker: Worker, strategy: str) -> float:
    """Elements of the parameters that the modules hold between two micro-batches, as a share of the whole."""
    entry = find("gpt2")
    mesh = build_mesh(parse_strategy(strategy), worker.rank, worker.device)
    sharded = parallelize(entry, configure(entry, "tiny", CONFIG), mesh, seed=0, tokens=16)
    whole = sum(p.numel() for p in sharded.parameters.values())
    seen: list[int] = []
    prepare = sharded.sync.prepare

    def look(last: bool) -> None:
        seen.append(sum(local(p).numel() for p in sharded.program.parameters()))
        prepare(last)

    sharded.sync.prepare = look  # type: ignore[method-assign]
    sharded.run(token_batches(64, 16, 2)[0])
    return seen[1] / whole


@pytest.mark.parametrize(("strategy", "share"), [("zero1", 1.0), ("zero2", 1.0), ("zero3", 0.5)])
def test_parameters_between_two_micro_batches(ranks: Callable[..., list[Any]], strategy: str, share: float) -> None:
    for found in ranks(held_between, 2, strategy=strategy):
        assert found == pytest.approx(share, rel=0.02)
