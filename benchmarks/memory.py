"""Does a rank hold what `shardwright plan` says? GPT-2 on four CPU ranks, every storage counted: planned and measured.

P is the model's parameters in fp32. "held" is between two micro-batches, "rest" after a step, "peak" the most in a step
that is not the first; of the rank with the highest peak, which is why loads and clocks do not matter. The paper's
figures are those of Rajbhandari et al. 2020; with fully_shard ZeRO-1 and 2 hold the sharded copy P/4 too. Between two
micro-batches of a pipeline others are on their way, so "held" is not compared there.

python benchmarks/memory.py [--table] [--width 256] [--layers 6] [--vocab 4096]
"""

import argparse
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from figure import Figure, report
from shardwright.cluster.pool import Pool
from shardwright.models.gpt2.entry import ENTRY, GPT2Config
from shardwright.trainers.estimate import activations, count
from shardwright.trainers.layout import parse_strategy
from shardwright.trainers.memory import MemoryPlan, memory_plan, total
from shardwright.trainers.options import OptimizerOptions

RANKS, TOKENS, MICRO_BATCHES = 4, 32, 3
BOUNDS = {"held": 5.0, "rest": 5.0, "peak": 10.0}  # percent
PAPER = {"ddp": 4.0, "zero1": 2.5, "zero2": 1.75, "zero3": 1.0}  # in P, between two micro-batches with Adam
RUNS: dict[str, tuple[str, dict[str, str], int]] = {  # strategy, options, samples of a micro-batch
    "ddp": ("ddpx4", {}, 1),
    "zero1": ("zero1x4", {}, 1),
    "zero2": ("zero2x4", {}, 1),
    "zero3": ("zero3x4", {}, 1),
    "zero3, 16 samples": ("zero3x4", {}, 16),
    "zero3, 16, recompute": ("zero3x4", {"recompute": "full"}, 16),
    "zero1 bf16": ("zero1x4", {"dtype": "bf16"}, 1),
    "zero3 bf16": ("zero3x4", {"dtype": "bf16"}, 1),
    "ddp_zero3": ("ddp_zero3", {}, 1),
    "zero3_tensor2": ("zero3_tensor2", {}, 4),
    "zero1_pipeline2": ("zero1_pipeline2", {}, 4),
    "tensor2_pipeline2": ("tensor2_pipeline2", {}, 4),
}


@dataclass(frozen=True)
class Row:
    """One run; figures in P."""

    name: str
    planned: Mapping[str, float]
    measured: Mapping[str, float]
    where: str  # the moment of the peak

    def error(self, moment: str) -> float:
        """Of the plan, in percent of what was measured."""
        return 100 * (self.planned[moment] / self.measured[moment] - 1)

    def __str__(self) -> str:
        cells = [f"{self.name:22} {PAPER.get(self.name, ''):>6}"]
        for moment in BOUNDS:
            if moment in self.planned:
                cells.append(f"{self.planned[moment]:7.3f} {self.measured[moment]:8.3f} {self.error(moment):+6.1f}%")
            else:
                cells.append(" " * 24)
        return "  ".join([*cells, self.where])

    def figures(self) -> Iterator[Figure]:
        """The errors, without their signs."""
        for moment in ("held", "peak"):
            if moment not in self.planned:
                continue
            detail = {"planned_in_P": round(self.planned[moment], 4), "measured_in_P": round(self.measured[moment], 4)}
            if moment == "held" and self.name in PAPER:
                detail["paper_in_P"] = PAPER[self.name]
            name = f"error of the plan, {moment}, {self.name}"
            yield Figure("memory", name, round(abs(self.error(moment)), 2), "%", most=BOUNDS[moment], detail=detail)


def measure(worker: Any, strategy: str, config: dict[str, Any], options: dict[str, str], samples: int) -> Any:
    """Count two steps of one layout."""
    import torch
    from shardwright.trainers.measure import measure_step
    from shardwright.trainers.mesh import build_mesh

    mesh, sizes = build_mesh(parse_strategy(strategy), worker.rank, worker.device), GPT2Config(**config)
    tokens = torch.randint(sizes.vocab_size, (2, MICRO_BATCHES, samples, TOKENS + 1))
    steps = [[{"inputs": x[:, :-1].clone(), "targets": x[:, 1:].clone()} for x in step] for step in tokens]
    return asdict(measure_step(ENTRY, sizes, mesh, OptimizerOptions(), steps, seed=0, tokens=TOKENS, **options))


def plan(config: GPT2Config, strategy: str, options: dict[str, str], samples: int) -> MemoryPlan:
    """The formulas' word."""
    layout = parse_strategy(strategy)
    kept = activations(ENTRY, config, samples, TOKENS, options.get("dtype", "fp32"))
    sizes = count(ENTRY, config, layout.tensor).sizes
    return memory_plan(sizes, layout, kept, OptimizerOptions(), micro_batches=MICRO_BATCHES, **options)


def compare(pool: Pool, config: GPT2Config) -> Iterator[Row]:
    """Each run beside its plan."""
    whole = 4 * count(ENTRY, config).sizes.parameters
    for name, (strategy, options, samples) in RUNS.items():
        payload = {"strategy": strategy, "config": asdict(config), "options": options, "samples": samples}
        found = max(pool.run(f"{__file__}:measure", RANKS, payload, deadline=300), key=lambda rank: rank["peak"])
        planned = plan(config, strategy, options, samples)
        sums = {"held": total(planned.held), "rest": total(planned.rest), "peak": planned.peak_bytes}
        if "pipeline" in strategy:
            del sums["held"]
        measured = {moment: found[moment] / whole for moment in sums}
        yield Row(name, {moment: size / whole for moment, size in sums.items()}, measured, planned.where)


def main() -> None:
    """Measure every run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", action="store_true", help="a table for people, in place of figures")
    for name, default in (("width", 256), ("layers", 6), ("vocab", 4096)):
        parser.add_argument(f"--{name}", type=int, default=default)
    asked = parser.parse_args()
    config = GPT2Config(asked.vocab, 64, asked.width, asked.layers, heads=4, dropout=0.0)
    with Pool(["shardwright.trainers.measure"], paths=[str(Path(__file__).parent)]) as pool:
        if not asked.table:
            report([figure for row in compare(pool, config) for figure in row.figures()])
        titles = "  ".join(f"{moment:>7} {'measured':>8} {'error':>7}" for moment in BOUNDS)
        print(f"{'':22} {'paper':>6}  {titles}  peak at")
        for row in compare(pool, config):
            print(row, flush=True)


if __name__ == "__main__":
    main()
