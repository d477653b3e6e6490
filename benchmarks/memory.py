"""Does a rank hold what `shardwright plan` says? GPT-2 on four CPU ranks, every storage counted: planned and measured.

    python benchmarks/memory.py [--width 256] [--layers 6] [--vocab 4096] [--json]

P is the model's parameters in fp32. "held" is between two micro-batches, "rest" after a step, "peak" the most in a step
that is not the first; of the rank with the highest peak. The paper's figures are those of Rajbhandari et al. 2020; with
fully_shard ZeRO-1 and 2 hold the sharded copy P/4 too.
"""

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from shardwright.cluster.pool import Pool
from shardwright.models.gpt2.entry import ENTRY, GPT2Config
from shardwright.trainers.estimate import activations, count
from shardwright.trainers.layout import parse_strategy
from shardwright.trainers.memory import MemoryPlan, memory_plan, total
from shardwright.trainers.options import OptimizerOptions

RANKS, TOKENS, MICRO_BATCHES = 4, 32, 3
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


def measure(worker: Any, strategy: str, config: dict[str, Any], options: dict[str, str], samples: int) -> Any:
    """Count two steps of one layout."""
    import torch
    from shardwright.trainers.measure import measure_step
    from shardwright.trainers.mesh import build_mesh

    mesh, sizes = build_mesh(parse_strategy(strategy), worker.rank, worker.device), GPT2Config(**config)
    tokens = torch.randint(sizes.vocab_size, (2, MICRO_BATCHES, samples, TOKENS + 1))
    steps = [[{"inputs": x[:, :-1].clone(), "targets": x[:, 1:].clone()} for x in step] for step in tokens]
    return asdict(measure_step(ENTRY, sizes, mesh, OptimizerOptions(), steps, seed=0, tokens=TOKENS, **options))


def planned(config: GPT2Config, strategy: str, options: dict[str, str], samples: int) -> MemoryPlan:
    """The formulas' word."""
    layout = parse_strategy(strategy)
    kept = activations(ENTRY, config, samples, TOKENS, options.get("dtype", "fp32"))
    sizes = count(ENTRY, config, layout.tensor).sizes
    return memory_plan(sizes, layout, kept, OptimizerOptions(), micro_batches=MICRO_BATCHES, **options)


def compare(pool: Pool, config: GPT2Config) -> Iterator[dict[str, Any]]:
    """One row for each run; figures in P."""
    whole = 4 * count(ENTRY, config).sizes.parameters
    for name, (strategy, options, samples) in RUNS.items():
        payload = {"strategy": strategy, "config": asdict(config), "options": options, "samples": samples}
        found = max(pool.run(f"{__file__}:measure", RANKS, payload, deadline=300), key=lambda rank: rank["peak"])
        plan = planned(config, strategy, options, samples)
        sums = {"held": total(plan.held), "rest": total(plan.rest), "peak": plan.peak_bytes}
        if "pipeline" in strategy:
            del sums["held"]  # other micro-batches are on their way between two of them
        figures = {key: {"plan": size / whole, "measured": found[key] / whole} for key, size in sums.items()}
        yield {"name": name, "paper": PAPER.get(name), **figures, "where": plan.where}


def show(row: dict[str, Any]) -> str:
    """A row for people."""
    cells = [f"{row['name']:22} {row['paper'] or '':>6}"]
    for key in ("held", "rest", "peak"):
        if key in row:
            plan, found = row[key]["plan"], row[key]["measured"]
            cells.append(f"{plan:7.3f} {found:8.3f} {plan / found - 1:+7.1%}")
        else:
            cells.append(" " * 24)
    return "  ".join([*cells, row["where"]])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    for name, default in (("width", 256), ("layers", 6), ("vocab", 4096)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    config = GPT2Config(asked.vocab, 64, asked.width, asked.layers, heads=4, dropout=0.0)
    with Pool(["shardwright.trainers.measure"]) as pool:
        if asked.json:
            print(json.dumps(list(compare(pool, config))))
            return
        print(f"{count(ENTRY, config).sizes.parameters:,} parameters, {RANKS} ranks, figures in P")
        titles = "  ".join(f"{moment:>7} {'measured':>8} {'error':>7}" for moment in ("held", "rest", "peak"))
        print(f"{'':22} {'paper':>6}  {titles}  peak at")
        for row in compare(pool, config):
            print(show(row), flush=True)


if __name__ == "__main__":
    main()
