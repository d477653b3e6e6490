"""What does a step cost beside a plain PyTorch DDP loop, Lightning Fabric and the Hugging Face Trainer?

Two ranks of one thread, forked by the pool as every run's are. The contenders take blocks of steps in turn within the
same two processes; a figure is the median over the rounds of the ratio within a round.

python benchmarks/step.py [--rounds 20] [--block 10]
"""

import argparse
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from figure import Figure, report, spread
from shardwright.cluster.call import Call
from shardwright.cluster.pool import Pool
from shardwright.cluster.shared_memory import SharedMemory
from shardwright.jobs.assignment import Assignment
from shardwright.jobs.events import file_name, read

RANKS = 2
DEADLINE = 1800.0
LAYOUT = ("resources.workers=2", "parallel.zero=0", "parallel.shard=1", "parallel.pipeline=1", "parallel.replicate=2")
SIZES = {  # title -> the rest of the job
    "1M": ("train.global_batch=32", "train.micro_batch=16"),
    "10M": (
        "train.global_batch=8",
        "train.micro_batch=4",
        "model.config.width=384",
        "model.config.heads=6",
        "model.config.layers=6",
        "optimizer.lr=3e-4",  # at the job's own rate rounding grows until the contenders' losses part
    ),
}
OURS = "our loop"
BOUNDS = {"plain PyTorch DDP": 1.03, "Lightning Fabric": 1.0, "Hugging Face Trainer": 1.0}


def run_race(pool: Pool, overrides: Sequence[str], block: int, folder: Path) -> dict[str, Any]:
    """The race on fresh ranks, with what a supervisor gives them: files for events and room for snapshots."""
    memory = SharedMemory()
    payload = {"overrides": list(overrides), "folder": str(folder), "block": block}
    assignments = [
        Assignment(
            "race:race",
            rank,
            RANKS,
            payload,
            local_rank=rank,
            timeout=DEADLINE,
            log=str(folder / f"rank-{rank}.log"),
            events=str(folder / file_name(0, rank)),
            snapshots=str(memory.of(rank) or ""),
        )
        for rank in range(RANKS)
    ]
    try:
        found: dict[str, Any] = Call("race", pool.start(assignments), folder).finish(DEADLINE)[0]
    finally:
        memory.close()
    return found | {"spent": spent(folder)}


def spent(folder: Path) -> dict[str, float]:
    """Mean milliseconds of our loop's step, as its own events tell; a block's first step holds the others' time."""
    steps = [event["spent"] for event in read(folder) if event.kind == "step" and event.rank == 0]
    names = sorted({name for step in steps for name in step})
    return {name: round(mean(step.get(name, 0.0) for step in steps) * 1e3, 2) for name in names}


def figures(size: str, found: Mapping[str, Any]) -> list[Figure]:
    """Ratios of our loop to each peer, and of our step without snapshot and event to the plain loop."""
    wall, core = (warm(found[clock]) for clock in ("seconds", "core"))
    shown = {
        "milliseconds": {name: spread([t * 1e3 for t in times], 2) for name, times in wall.items()},
        "spent_ms": found["spent"],
        "loss_difference": found["loss_difference"],
        "parameters": found["parameters"],
    }
    pairs = [(OURS, peer, most) for peer, most in BOUNDS.items()] + [("our step alone", "plain PyTorch DDP", None)]
    made = []
    for ours, peer, most in pairs:
        ratios = spread(divided(wall[ours], wall[peer]))
        detail = ratios | {"processor_time": spread(divided(core[ours], core[peer]))} | shown
        made.append(Figure("step", f"{ours} / {peer}, {size} parameters", ratios["median"], "x", most, detail=detail))
        shown = {}
    return made


def warm(times: Mapping[str, list[float]]) -> dict[str, list[float]]:
    """All rounds but the first, which warms up."""
    return {name: values[1:] for name, values in times.items()}


def divided(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    """The ratio of each round."""
    return [mine / peer for mine, peer in zip(ours, theirs, strict=True)]


def race(sizes: Sequence[str], rounds: int, block: int) -> Iterator[Figure]:
    """The figures of each size of the model."""
    length = f"train.steps={(rounds + 1) * block}"
    with Pool(["shardwright.jobs.train"], paths=[str(Path(__file__).parent)]) as pool:
        for size in sizes:
            with tempfile.TemporaryDirectory() as folder:
                yield from figures(size, run_race(pool, [*LAYOUT, *SIZES[size], length], block, Path(folder)))


def main() -> None:
    """Race over each size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--block", type=int, default=10)
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    asked = parser.parse_args()
    report(race(asked.sizes, asked.rounds, asked.block))


if __name__ == "__main__":
    main()
