"""How long do the ranks of a pipeline wait? Stages that sleep a fixed time: their Chrome traces beside the order.

Every virtual stage sleeps for its forward, for its input's gradient and for its weight's, so that neither loads nor
clocks matter much. Idle is the share of all ranks' time, from the first action to the last one's end, that lies in no
action of a trace. 1F1B's is (p - 1) / (m + p - 1). The last figure is GPT-2's blocks, computed for real: a backward in
two actions beside one in one.

python benchmarks/pipeline.py [--table]
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from figure import Figure, report
from shardwright.cluster.pool import Pool
from shardwright.trainers.pipeline_bubble import bubble, simulate
from shardwright.trainers.pipeline_order import SCHEDULES

SLEEP = 0.24  # seconds of a rank for all of its forward, its B or its W of one micro-batch
CASES = ((2, 4), (2, 8), (4, 4), (4, 8))  # ranks, micro-batches
ROUNDS = 9
MOST = 1.1  # B and W together, beside a backward at once


@dataclass(frozen=True)
class Row:
    """One schedule; shares of all ranks' time."""

    schedule: str
    ranks: int
    micro_batches: int
    order: float
    measured: float

    def __str__(self) -> str:
        return f"| {self.ranks} | {self.micro_batches} | {self.schedule} | {self.order:.3f} | {self.measured:.3f} |"

    def figure(self) -> Figure:
        """The share measured above the order's."""
        name = f"idle share above the order's, {self.schedule}, {self.ranks} ranks, {self.micro_batches} micro-batches"
        detail = {"order": round(self.order, 4), "measured": round(self.measured, 4)}
        return Figure("pipeline", name, round(self.measured - self.order, 4), "", most=0.05, detail=detail)


def sleeping(parts: int) -> Any:
    """An entry with so many units that sleep."""
    import torch
    from shardwright.models.entry import Entry, Unit
    from torch import nn

    class Sleep(torch.autograd.Function):
        """The identity, whose backward takes a while."""

        @staticmethod
        def forward(ctx: Any, x: Any, seconds: float) -> Any:
            ctx.seconds = seconds
            return x.clone()

        @staticmethod
        def backward(ctx: Any, gradient: Any) -> Any:
            time.sleep(ctx.seconds)
            return gradient.clone(), None

    class Sleeper(nn.Module):
        """Sleeps for its forward, its input's gradient and its weight's."""

        def __init__(self, seconds: float) -> None:
            super().__init__()
            self.seconds, self.weight = seconds, nn.Parameter(torch.ones(1))

        def forward(self, x: Any) -> Any:
            time.sleep(self.seconds)
            return Sleep.apply(x, self.seconds) + Sleep.apply(self.weight, self.seconds)

    class Program(nn.Module):
        """Units in a row; the first one's input needs a gradient too, for equal times."""

        def __init__(self, seconds: float) -> None:
            super().__init__()
            self.units = nn.ModuleDict({str(i): Sleeper(seconds) for i in range(parts)})

        def forward(self, batch: Any, *state: Any) -> Any:
            (x,) = state or (batch["x"].clone().requires_grad_(),)
            for unit in self.units.values():
                x = unit(x)
            return {"loss": (x.sum(), torch.ones(()))} if str(parts - 1) in self.units else (x,)

    return Entry(
        build=Program,
        config=float,
        name="sleeping",
        units=lambda _: tuple(Unit(f"units.{i}", 1) for i in range(parts)),
        boundary=lambda _, samples, tokens: (((samples, 1), "float32"),),
    )


def trace(worker: Any, schedule: str, micro_batches: int, folder: str) -> None:
    """Trace a step of sleeping stages."""
    import torch
    from shardwright.trainers.layout import Layout
    from shardwright.trainers.mesh import build_mesh
    from shardwright.trainers.parallelize import parallelize
    from shardwright.trainers.trace import Trace

    layout = Layout(pipeline=worker.world_size, schedule=schedule)
    mesh = build_mesh(layout, worker.rank, worker.device)
    entry = sleeping(worker.world_size * layout.chunks)
    sharded = parallelize(entry, SLEEP / layout.chunks, mesh, seed=0, tokens=0)
    batches = [{"x": torch.ones(1, 1)}] * micro_batches
    sharded.run(batches[:1])
    traced = Trace(range(1, 2), Path(folder), worker.rank)
    traced.before(1)
    sharded.run(batches)
    traced.after(1)


def idle(folder: Path) -> float:
    """The share of the ranks' time that lies in no action of their traces."""
    traces = [json.loads(path.read_text()) for path in sorted(folder.glob("*.trace.json"))]
    found = [
        (int(trace["baseTimeNanoseconds"]) / 1e3 + event["ts"], event["dur"])
        for trace in traces
        for event in trace["traceEvents"]
        if event.get("cat") == "user_annotation" and event["name"][0] in "FBW" and event["name"][1].isdigit()
    ]
    span = max(start + length for start, length in found) - min(start for start, _ in found)
    return 1 - sum(length for _, length in found) / (len(traces) * span)


def rows(pool: Pool) -> Iterator[Row]:
    """Every schedule and size."""
    for ranks, micro_batches in CASES:
        for name, schedule in SCHEDULES.items():
            with TemporaryDirectory() as folder:
                payload = {"schedule": name, "micro_batches": micro_batches, "folder": folder}
                pool.run(f"{__file__}:trace", ranks, payload, deadline=300)
                measured = idle(Path(folder))
            yield Row(name, ranks, micro_batches, bubble(simulate(schedule, ranks, micro_batches)), measured)


def split_cost(worker: Any) -> float:
    """The processor time of B and W of GPT-2's blocks, in times of a backward at once; the median of the rounds."""
    import torch
    from shardwright.models.catalog import configure, find
    from shardwright.models.program import build
    from shardwright.trainers.split_backward import SplitBackward
    from torch.autograd.graph import get_gradient_edge

    config = configure(find("gpt2"), "tiny", {"width": 512, "context": 256, "layers": 4, "dropout": 0.0})
    program = build(find("gpt2"), config)
    program.embed = program.head = None
    torch.set_num_threads(1)
    batch = {"inputs": torch.zeros(2, config.context, dtype=torch.int64)}

    def seconds(backward: Callable[[Any, Any], None]) -> float:
        x = torch.randn(2, config.context, config.width, requires_grad=True)
        (y,) = program(batch, x)
        start = time.process_time()
        backward(x, y)
        return time.process_time() - start

    def split(x: Any, y: Any) -> None:
        halves = SplitBackward([get_gradient_edge(y)], [x])
        halves.inputs([torch.ones_like(y)])
        halves.weights()

    pairs = [(seconds(split), seconds(lambda _, y: y.backward(torch.ones_like(y)))) for _ in range(ROUNDS + 2)]
    return median(halves / whole for halves, whole in pairs[2:])


def main() -> None:
    """Measure all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", action="store_true", help="a table for people, in place of figures")
    asked = parser.parse_args()
    with Pool(["shardwright.trainers.parallelize"], paths=[str(Path(__file__).parent)]) as pool:
        if asked.table:
            print("| ranks p | micro-batches m | schedule | idle: order | idle: measured |\n|---|---|---|---|---|")
            for row in rows(pool):
                print(row, flush=True)
            return
        cost = pool.run(f"{__file__}:split_cost", 1, {}, deadline=300)[0]
        name = "processor time of a backward in two actions, in times of one at once"
        report([Figure("pipeline", name, round(cost, 3), "", most=MOST), *(row.figure() for row in rows(pool))])


if __name__ == "__main__":
    main()
