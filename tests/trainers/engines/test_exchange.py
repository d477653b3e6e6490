"""A checkpoint written under any engine goes on under any other, weights and the optimizer's states alike."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from shardwright.jobs.verify import token_batches
from shardwright.models.catalog import configure, find
from shardwright.trainers.checkpoint.manifest import newest
from shardwright.trainers.checkpoint.store import load, save
from shardwright.trainers.clock import Clock
from shardwright.trainers.engine import Engine, build_engine
from shardwright.trainers.layout import parse_strategy
from shardwright.trainers.mesh import build_mesh
from shardwright.trainers.options import OptimizerOptions
from shardwright.trainers.step import Step
from shardwright.trainers.world import Worker

CONFIG = {"vocab_size": 64, "context": 16, "width": 32, "layers": 2}
RULE = OptimizerOptions(lr=1e-2)
TWO = ("ddp", "zero3", "deepspeed_zero1", "deepspeed_zero2", "deepspeed_zero3", "fairscale_oss", "horovod")
BEFORE, AFTER = 2, 2  # steps


def begin(worker: Worker, strategy: str) -> tuple[Engine, Step, list[Any]]:
    """A fresh engine, its step, and this rank's micro-batches of every step."""
    entry, mesh = find("gpt2"), build_mesh(parse_strategy(strategy), worker.rank, worker.device)
    engine = build_engine(entry, configure(entry, "tiny", CONFIG), mesh, RULE, 1.0, seed=0, tokens=16)
    data, each = mesh.layout.data, 4 // mesh.layout.data
    steps = token_batches(64, 16, 4, BEFORE + AFTER)
    assert data * each == 4
    mine = [step[mesh.data_rank * each :][:each] for step in steps]
    return engine, Step(engine.model, engine.solver, lambda _: RULE.lr), mine


def write(worker: Worker, strategy: str, folder: str) -> list[float]:
    """Train a few steps and save; the losses of the steps after."""
    engine, step, batches = begin(worker, strategy)
    for index in range(BEFORE):
        step(index, batches[index], False, Clock())
    keep(engine, folder)
    return [step(index, batches[index], False, Clock()).loss for index in range(BEFORE, BEFORE + AFTER)]


def keep(engine: Engine, folder: str) -> None:
    engine.state.fill()
    save(Path(folder), BEFORE, engine.state.tensors, {"step": BEFORE}, attempt=0, keep=1)


def read(worker: Worker, strategy: str, folders: dict[str, str], copies: str) -> dict[str, list[float]]:
    """Take over the state of every writer, save it again, and go on; the losses of the steps after."""
    engine, step, batches = begin(worker, strategy)
    found = {}
    for writer, folder in folders.items():
        checkpoint = newest(Path(folder))
        assert checkpoint is not None
        load(checkpoint, engine.state.tensors)
        engine.state.adopt()
        engine.solver.set_updates(lambda _: BEFORE)
        keep(engine, f"{copies}/{writer}")
        found[writer] = [step(at, batches[at], False, Clock()).loss for at in range(BEFORE, BEFORE + AFTER)]
    return found


def whole(folder: Path, shapes: dict[str, list[int]]) -> dict[str, torch.Tensor]:
    """A checkpoint's tensors; it must hold exactly those of the given names and shapes."""
    checkpoint = newest(folder)
    assert checkpoint is not None
    found = {name: torch.full(shape, torch.nan) for name, shape in shapes.items()}
    load(checkpoint, found)
    return found


def shapes_of(folder: Path) -> dict[str, list[int]]:
    """Of a checkpoint that replicas wrote, each tensor in one piece."""
    checkpoint = newest(folder)
    assert checkpoint is not None
    found = {}
    for path in checkpoint.glob("*.safetensors"):
        with safe_open(path, "pt") as file:
            found |= {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
    return found


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory, pool: Any) -> dict[str, Any]:
    """{strategy: (folder, later losses)}."""
    for engine in ("deepspeed", "fairscale", "horovod"):
        pytest.importorskip(engine, reason="the engine is not installed")
    found = {}
    for strategy in TWO:
        folder = tmp_path_factory.mktemp(strategy)
        found[strategy] = (
            folder,
            pool.run(f"{__file__}:write", 2, {"strategy": strategy, "folder": str(folder)}, 120)[0],
        )
    return found


def test_all_write_the_same_tensors(written: dict[str, Any]) -> None:
    shapes = shapes_of(written["ddp"][0])
    found = {strategy: whole(folder, shapes) for strategy, (folder, _) in written.items()}
    averages = [name for name in shapes if name.endswith(".exp_avg")]
    assert len(averages) == len(shapes) // 3  # a weight and AdamW's two averages
    for state in found.values():
        for name in averages:
            torch.testing.assert_close(state[name], found["ddp"][name], rtol=0.0, atol=1e-6)


@pytest.mark.parametrize("strategy", [*TWO, "deepspeed_pipeline2", "fairscale_pipeline2"])
def test_each_goes_on_from_all(
    ranks: Callable[..., list[Any]], written: dict[str, Any], strategy: str, tmp_path: Path
) -> None:
    folders, shapes = {writer: str(folder) for writer, (folder, _) in written.items()}, shapes_of(written["ddp"][0])
    world = parse_strategy(strategy).world_size
    found = ranks(read, world, strategy=strategy, folders=folders, copies=str(tmp_path), deadline=120)[0]
    for writer, (folder, losses) in written.items():
        original, copied = whole(folder, shapes), whole(tmp_path / writer, shapes)
        assert all(torch.equal(tensor, original[name]) for name, tensor in copied.items()), writer
        assert found[writer] == pytest.approx(losses, abs=1e-6), writer
