"""Do the formulas tell what a rank holds where tokens, vocabularies and experts are split? Measured beside planned."""

from dataclasses import asdict
from typing import Any

import pytest
import torch
from shardwright.cluster.pool import Pool
from shardwright.models.catalog import configure, find
from shardwright.trainers.estimate import Portions, count, rank_memory
from shardwright.trainers.layout import parse_strategy
from shardwright.trainers.measure import Measured, measure_step
from shardwright.trainers.memory import MemoryPlan, total
from shardwright.trainers.mesh import build_mesh
from shardwright.trainers.options import OptimizerOptions, TrainOptions
from shardwright.trainers.world import Worker

SIZES = {"context": 64, "layers": 3, "width": 128, "heads": 4}
MODELS = {"gpt2": {**SIZES, "dropout": 0.0}, "llama": {**SIZES, "kv_heads": 2}, "mixtral": {**SIZES, "kv_heads": 2}}
RUNS = [  # (model, strategy, samples of a micro-batch, tokens)
    ("llama", "zero3", 4, 32),
    ("llama", "zero3_context2", 8, 64),
    ("llama", "tensor2", 8, 64),
    ("llama", "tensor2_sequence", 8, 64),
    ("gpt2", "tensor2_sequence", 8, 64),
    ("mixtral", "expert2", 4, 32),
    ("mixtral", "zero3_expert2", 4, 32),
]
MICRO_BATCHES = 2


def measure(worker: Worker, runs: list[tuple[str, str, int, int]]) -> list[dict[str, int]]:
    """What this rank holds in each of some runs of one world size."""
    return [asdict(measure_one(worker, *run)) for run in runs]


def measure_one(worker: Worker, model: str, strategy: str, samples: int, tokens: int) -> Measured:
    entry, mesh = find(model), build_mesh(parse_strategy(strategy), worker.rank, worker.device)
    sizes = configure(entry, "tiny", MODELS[model])
    generator = torch.Generator().manual_seed(mesh.data_rank)

    def batch() -> dict[str, torch.Tensor]:
        text = torch.randint(sizes.vocab_size, (samples, tokens + 1), generator=generator)
        return {"inputs": text[:, :-1].clone(), "targets": text[:, 1:].clone()}

    steps = [[batch() for _ in range(MICRO_BATCHES)] for _ in range(2)]
    return measure_step(entry, sizes, mesh, OptimizerOptions(), steps, seed=0, tokens=tokens)


def planned(model: str, strategy: str, samples: int, tokens: int) -> MemoryPlan:
    entry, layout = find(model), parse_strategy(strategy)
    sizes = configure(entry, "tiny", MODELS[model])
    train = TrainOptions(steps=1, global_batch=MICRO_BATCHES * samples * layout.data)
    portions = Portions(layout, train, OptimizerOptions(), tokens)
    return rank_memory(entry, sizes, portions, samples, count(entry, sizes, layout.tensor).sizes)


@pytest.fixture(scope="module")
def measured(pool: Pool) -> dict[tuple[Any, ...], Measured]:
    """The rank that needs most, of every run."""
    found: dict[tuple[Any, ...], Measured] = {}
    worlds = {run: parse_strategy(run[1]).world_size for run in RUNS}
    for world in sorted(set(worlds.values())):
        runs = [run for run, size in worlds.items() if size == world]
        by_rank = pool.run(f"{__file__}:measure", world, {"runs": runs}, deadline=150)
        for run, ranks in zip(runs, zip(*by_rank, strict=True), strict=True):
            found[run] = max((Measured(**rank) for rank in ranks), key=lambda rank: rank.peak)
    return found


@pytest.mark.parametrize("run", RUNS, ids=lambda run: f"{run[0]} {run[1]}")
def test_what_a_rank_holds_is_what_was_planned(run: tuple[str, str, int, int], measured: dict[Any, Measured]) -> None:
    plan = planned(*run)
    assert measured[run].held == pytest.approx(total(plan.held), rel=0.05)
    assert measured[run].rest == pytest.approx(total(plan.rest), rel=0.05)
    assert measured[run].peak == pytest.approx(plan.peak_bytes, rel=0.10), plan.where
