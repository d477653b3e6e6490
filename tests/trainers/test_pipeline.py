"""Ranks of a pipeline exchange tensors of any kind in any schedule, and wait no longer than the schedule makes them."""

import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from shardwright.models.entry import Entry, Unit
from shardwright.trainers.layout import Layout
from shardwright.trainers.mesh import build_mesh
from shardwright.trainers.parallelize import build_seeded, parallelize
from shardwright.trainers.pipeline_bubble import bubble, simulate
from shardwright.trainers.pipeline_order import SCHEDULES
from shardwright.trainers.split_backward import SplitBackward
from shardwright.trainers.terms import Batch
from shardwright.trainers.trace import Trace
from shardwright.trainers.world import Worker
from torch import Tensor, nn

WIDTH, UNITS = 6, 6
names = pytest.mark.parametrize("schedule", sorted(SCHEDULES))


class Two(nn.Module):
    """A stream [B, 6] and a skip [B, 3, 2] that only the last unit reads; int64 and bool tensors go along.

    The stream leaves each unit with permuted strides, and so does its gradient.
    """

    def __init__(self) -> None:
        super().__init__()
        self.units = nn.ModuleDict({str(i): nn.Linear(WIDTH, WIDTH) for i in range(UNITS)})
        self.units["1"].requires_grad_(False)

    def forward(self, batch: Batch, *state: Tensor) -> Any:
        first = "0" in self.units
        stream, skip, kind, mask = state if not first else (batch["x"], batch["x"], batch["kind"], batch["x"] > 0)
        for name, unit in self.units.items():
            stream = torch.tanh(unit(stream))
            skip = stream.view(-1, 2, 3).transpose(1, 2) if name == "0" else skip
        if str(UNITS - 1) not in self.units:
            return stream.t().contiguous().t(), skip, kind, mask
        value = (stream * mask).pow(2).sum(1) * (1 + kind) + skip.pow(3).sum((1, 2))
        return {"loss": (value.sum(), torch.tensor(float(len(value))))}


def _units(config: None) -> tuple[Unit, ...]:
    return tuple(Unit(f"units.{i}", WIDTH * (WIDTH + 1)) for i in range(UNITS))


def _boundary(config: None, samples: int, tokens: int) -> Any:
    stream, skip = ((samples, WIDTH), "compute"), ((samples, 3, 2), "float32")
    return stream, skip, ((samples,), "int64"), ((samples, WIDTH), "bool")


def entry(program: str) -> Entry:
    return Entry(build=globals()[program], name="two", units=_units, boundary=_boundary)


def many_batches(count: int) -> list[Batch]:
    generator = torch.Generator().manual_seed(0)
    return [
        {"x": torch.randn(3, WIDTH, generator=generator), "kind": torch.arange(3) + index} for index in range(count)
    ]


def gradients(worker: Worker, schedule: str, count: int, fault: str = "", program: str = "Two") -> dict[str, Any]:
    """Loss and gradients of one step, and the loss in evaluation."""
    if fault:
        FAULTS[fault]()
    layout = Layout(pipeline=worker.world_size, schedule=schedule)
    mesh = build_mesh(layout, worker.rank, worker.device)
    sharded = parallelize(entry(program), None, mesh, seed=0, tokens=0)
    for _ in range(2):  # what was agreed on in the first step holds in the second
        terms = sharded.run(many_batches(count)).terms
    found = {n: p.grad.tolist() for n, p in sharded.parameters.items() if p.grad is not None}
    loss = {name: float(value) for name, (value, _) in terms.items()}
    evaluated = {name: float(value) for name, (value, _) in sharded.evaluate(many_batches(count)).items()}
    return {"loss": loss, "evaluated": evaluated, "gradients": found}


def alone(count: int, name: str) -> tuple[float, dict[str, Tensor]]:
    program, total = build_seeded(entry(name), None, 0), 0.0
    for batch in many_batches(count):
        value, _ = program(batch)["loss"]
        value.backward()
        total += value.item()
    return total, {name: p.grad for name, p in program.named_parameters() if p.grad is not None}


def check(found: list[dict[str, Any]], count: int, name: str = "Two") -> None:
    loss, expected = alone(count, name)
    assert [x for rank in found for x in rank["loss"].values()] == [pytest.approx(loss, rel=1e-6)]
    assert [x for rank in found for x in rank["evaluated"].values()] == [pytest.approx(loss, rel=1e-6)]
    merged = {name: torch.tensor(value) for rank in found for name, value in rank["gradients"].items()}
    assert merged.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(merged[name], gradient, rtol=1e-5, atol=1e-6)


@names
@pytest.mark.parametrize("count", [1, 5])
def test_tensors_of_every_kind_and_any_number_of_micro_batches(
    ranks: Callable[..., list[Any]], schedule: str, count: int
) -> None:
    check(ranks(gradients, 2, schedule=schedule, count=count), count)


@pytest.mark.parametrize("schedule", ["1f1b", "interleaved", "zbv"])
def test_three_ranks(ranks: Callable[..., list[Any]], schedule: str) -> None:
    check(ranks(gradients, 3, schedule=schedule, count=4), 4)


@pytest.mark.parametrize("schedule", ["1f1b", "zbv"])
def test_stages_without_gradients(ranks: Callable[..., list[Any]], schedule: str) -> None:
    check(ranks(gradients, 3, schedule=schedule, count=4, program="Frozen"), 4, "Frozen")


def lost_weights() -> None:
    """One micro-batch's weights are never reached."""
    original, calls = SplitBackward.weights, []

    def weights(self: SplitBackward) -> None:
        calls.append(self)
        if len(calls) != 13:  # in the second of two steps
            original(self)

    SplitBackward.weights = weights  # type: ignore[method-assign]


FAULTS = {"lost_weights": lost_weights}


def test_weights_that_are_never_reached_are_noticed(ranks: Callable[..., list[Any]]) -> None:
    with pytest.raises(AssertionError):
        check(ranks(gradients, 2, schedule="zbv", count=5, fault="lost_weights"), 5)


class Frozen(Two):
    """Nothing before its third unit has a gradient, nor has the skip."""

    def __init__(self) -> None:
        super().__init__()
        self.units["0"].requires_grad_(False)


class Narrow(Two):
    """Its stages return another shape than the entry names."""

    def forward(self, batch: Batch, *state: Tensor) -> Any:
        found = super().forward(batch, *state)
        return (found[0][:, :-1], *found[1:]) if isinstance(found, tuple) else found


def misfit(worker: Worker) -> None:
    mesh = build_mesh(Layout(pipeline=2), worker.rank, worker.device)
    parallelize(entry("Narrow"), None, mesh, seed=0, tokens=0).run(many_batches(1))


def test_a_boundary_that_is_not_what_the_entry_names(ranks: Callable[..., list[Any]]) -> None:
    with pytest.raises(Exception, match=r"a stage returned tensors of shapes \[\(3, 5\), .* names \[\(3, 6\), "):
        ranks(misfit, 2)


SLEEP = 0.03  # seconds of each of forward, B and W in one unit


class Sleep(torch.autograd.Function):
    """The identity, whose backward takes a while."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        time.sleep(SLEEP)
        return gradient.clone()


class Sleeper(nn.Module):
    """Takes a fixed time for its forward, its input's gradient and its weight's."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        time.sleep(SLEEP)
        return Sleep.apply(x) + Sleep.apply(self.weight)


class Slow(nn.Module):
    """As many equal units as there are virtual stages; the first one's input needs a gradient too, for equal times."""

    def __init__(self) -> None:
        super().__init__()
        self.units = nn.ModuleDict({str(i): Sleeper() for i in range(4)})

    def forward(self, batch: Batch, *state: Tensor) -> Any:
        (x,) = state or (batch["x"].clone().requires_grad_(),)
        for unit in self.units.values():
            x = unit(x)
        return {"loss": (x.sum(), torch.ones(()))} if "3" in self.units else (x,)


SLOW = Entry(
    build=Slow,
    name="slow",
    units=lambda _: tuple(Unit(f"units.{i}", 1) for i in range(4)),
    boundary=lambda _, samples, tokens: (((samples, 1), "float32"),),
)
MICRO_BATCHES = 6


def traced(worker: Worker, schedule: str, folder: str) -> None:
    """Trace one step of sleeping stages, after one that agrees on what is sent."""
    mesh = build_mesh(Layout(pipeline=worker.world_size, schedule=schedule), worker.rank, worker.device)
    sharded = parallelize(SLOW, None, mesh, seed=0, tokens=0)
    batches = [{"x": torch.ones(1, 1)}] * MICRO_BATCHES
    sharded.run(batches[:1])
    trace = Trace(range(1, 2), Path(folder), worker.rank)
    trace.before(1)
    sharded.run(batches)
    trace.after(1)


def idle(folder: Path, schedule: str) -> float:
    """The share of the ranks' time in no named range of their Chrome traces; each names the schedule's actions."""
    spans = []
    for rank in range(2):
        trace = json.loads((folder / f"rank-{rank:03}.trace.json").read_text())
        base = int(trace["baseTimeNanoseconds"]) / 1e3
        found = [e for e in trace["traceEvents"] if e.get("ph") == "X" and re.fullmatch(r"[FBW]\d+(\.1)?", e["name"])]
        found = [e for e in found if e.get("cat") == "user_annotation"]
        found.sort(key=lambda event: event["ts"])
        expected = [action.label for action in SCHEDULES[schedule].order(rank, 2, MICRO_BATCHES)]
        assert [event["name"] for event in found] == expected
        spans += [(base + event["ts"], event["dur"]) for event in found]
    busy = sum(duration for _, duration in spans)
    return 1 - busy / (2 * (max(at + duration for at, duration in spans) - min(at for at, _ in spans)))


def test_sleeping_stages_wait_as_long_as_the_orders_say(ranks: Callable[..., list[Any]], tmp_path: Path) -> None:
    """Idle shares from the Chrome traces of two ranks: 1/7 for gpipe and 1F1B, less for the others."""
    found = {}
    for schedule in ("gpipe", "1f1b", "interleaved", "zbv"):
        ranks(traced, 2, schedule=schedule, folder=str(tmp_path / schedule))
        found[schedule] = idle(tmp_path / schedule, schedule)
        assert found[schedule] == pytest.approx(bubble(simulate(SCHEDULES[schedule], 2, MICRO_BATCHES)), abs=0.05)
    assert found["1f1b"] > found["interleaved"] > found["zbv"]
