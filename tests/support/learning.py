"""Does an entry learn from its real data? A short run of the trainer's own step in one process, and held-out terms."""

from dataclasses import dataclass
from typing import Any

from shardwright.models.catalog import configure, find
from shardwright.models.entry import followers
from shardwright.trainers.clock import Clock
from shardwright.trainers.data.dataset import Data, open_data
from shardwright.trainers.data.loader import Loader
from shardwright.trainers.data.order import InTurn, Lanes, Order
from shardwright.trainers.data.slots import Slots
from shardwright.trainers.follow import Following
from shardwright.trainers.layout import Layout
from shardwright.trainers.mesh import build_mesh
from shardwright.trainers.options import DataOptions, OptimizerOptions, ScheduleOptions
from shardwright.trainers.parallelize import parallelize
from shardwright.trainers.phases import Turns
from shardwright.trainers.schedules import factor
from shardwright.trainers.sharded import Sharded
from shardwright.trainers.solvers import build_solver
from shardwright.trainers.step import Step, Totals
from shardwright.trainers.streams import Streams
from shardwright.trainers.terms import add
from shardwright.trainers.world import Worker

SCHEDULE = ScheduleOptions(name="cosine", warmup=10)


@dataclass(frozen=True)
class Trained:
    """An entry after a short run."""

    sharded: Sharded
    streams: Streams
    source: Data
    terms: list[dict[str, float]]  # of each step


def learn(worker: Worker, name: str, steps: int, batch: int = 32, batches: int = 4, **options: Any) -> dict[str, Any]:
    """Train an entry; call it as `ranks(learn, 1, deadline=120, name="mlp", steps=200)`.

    Args:
        batches: of held-out data; the others as in `train`.

    Returns:
        "first" and "last": the terms of the first and of the last ten steps, averaged; "held_out": terms, where there
        is held-out data.
    """
    made = train(worker, name, steps, batch, **options)
    held_out = _held_out(made.sharded, made.streams, made.source, batch, batches)
    return {"first": _mean(made.terms[:10]), "last": _mean(made.terms[-10:]), "held_out": held_out}


def train(
    worker: Worker,
    name: str,
    steps: int,
    batch: int = 32,
    preset: str = "",
    config: dict[str, Any] | None = None,
    data: dict[str, Any] | None = None,
    optimizer: dict[str, Any] | None = None,
) -> Trained:
    """Train an entry in one process, for a test that looks at what came out.

    Args:
        batch: samples of a step.
        data, optimizer: fields of the options that differ from the entry's data set and AdamW at 3e-3.
    """
    entry = find(name)
    sizes = configure(entry, preset, config or {})
    source = _data(entry.data, entry.dataset, batch, data or {})
    sharded = parallelize(
        entry,
        sizes,
        build_mesh(Layout(), worker.rank, worker.device),
        seed=0,
        tokens=source.tokens_per_sample or 0,
    )
    options = OptimizerOptions(**{"lr": 3e-3, **(optimizer or {})})
    streams = Streams(entry, sizes, sharded.program, sharded.mesh, batch)
    following = Following(followers(entry, sizes), sharded.parameters, steps)
    step = Step(
        sharded,
        build_solver(sharded, options, clip=1.0),
        lambda done: options.lr * factor(SCHEDULE, done, steps),
        streams,
        following,
    )
    order: Any = Order(len(source.train), 0)
    if entry.data == "experience":
        order = InTurn(batch)
    elif entry.streams:
        order = Lanes(len(source.train), batch)
    loader = Loader(source.train, order, 0, batch, 0, 1, batch)
    found = [
        step(done, loader.load(done), False, Clock(), isinstance(order, Lanes) and done % order.turns == 0).terms
        for done in range(steps)
    ]
    return Trained(sharded, streams, source, found)


def _data(kind: str, name: str, slots: int, options: dict[str, Any]) -> Data:
    if kind == "experience":
        return Data(Slots(slots), None, "", {})
    return open_data(DataOptions(**{"name": name, **options}), kind)


def _mean(terms: list[dict[str, float]]) -> dict[str, float]:
    """Of each term over the steps that have it (phases differ in their terms)."""
    names = {name for one in terms for name in one}
    values = {name: [one[name] for one in terms if name in one] for name in names}
    return {name: sum(found) / len(found) for name, found in values.items()}


def _held_out(sharded: Sharded, streams: Streams, source: Data, batch: int, batches: int) -> dict[str, float]:
    if source.held_out is None:
        return {}
    loader = Loader(source.held_out, InTurn(len(source.held_out)), 0, batch, 0, 1, batch)
    terms: Any = {}
    for index in range(min(batches, loader.whole_batches)):
        blank = [streams.blank(one) for one in loader.load(index)]
        terms = add(terms, sharded.evaluate(blank, phase=Turns(sharded.entry.phases).cycle[-1].name))
    sums, _ = Totals(sharded)(terms)
    return {name: total / count for name, (total, count) in sums.items() if count}
