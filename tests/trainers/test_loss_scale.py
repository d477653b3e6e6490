"""fp16: a gradient that overflows is left out on every rank alike, and a resumed run is the same run."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from shardwright.jobs.verify import token_batches
from shardwright.models.axes import local
from shardwright.models.catalog import configure, find
from shardwright.trainers.checkpoint.store import load, save
from shardwright.trainers.clock import Clock
from shardwright.trainers.engine import build_engine
from shardwright.trainers.layout import parse_strategy
from shardwright.trainers.loss_scale import START, LossScale, loss_scale
from shardwright.trainers.mesh import build_mesh
from shardwright.trainers.options import OptimizerOptions
from shardwright.trainers.step import Step
from shardwright.trainers.world import Worker

CONFIG = {"vocab_size": 64, "context": 16, "width": 32, "layers": 2, "dropout": 0.1}
STRATEGIES = ["ddp", "zero3", "tensor2", "pipeline2"]
STEPS = 6
TOO_LARGE = 2.0**40  # of a scale: the gradient overflows
BOUND = 2e-3  # of the loss in fp16 and in fp32, at each of the steps


def test_a_scale_halves_at_an_overflow_and_doubles_after_good_steps() -> None:
    scale = LossScale(growth=3)
    start = scale.value
    for good, value in ((True, 1), (False, 1 / 2), (True, 1 / 2), (True, 1 / 2), (True, 1), (True, 1), (False, 1 / 2)):
        scale.settle(good, "")
        assert scale.value == value * start
    assert scale.skipped == {"": 2}
    twin = LossScale(growth=3)
    twin.restore(scale.state())
    assert twin.state() == scale.state()


def test_only_fp16_has_a_scale_and_a_sum_begins_with_a_smaller_one() -> None:
    assert loss_scale("fp32", 1, 100) is None and loss_scale("bf16", 1, 100) is None
    of_sum, of_mean = loss_scale("fp16", 1, 100), loss_scale("fp16", 2, 100)
    assert of_sum is not None and of_mean is not None
    assert (of_sum.value, of_mean.value) == (START / 128, START)


def losses(
    worker: Worker, strategy: str, dtype: str, folder: str = "", start: int = 0, overflow: int = -1
) -> dict[str, Any]:
    """A few steps, the last rank's scale being too large at one; from a checkpoint in the middle where there is one."""
    entry, mesh = find("gpt2"), build_mesh(parse_strategy(strategy), worker.rank, worker.device)
    options = OptimizerOptions(lr=1e-2)
    config = configure(entry, "tiny", CONFIG)
    engine = build_engine(entry, config, mesh, options, 1.0, seed=0, tokens=16, dtype=dtype)
    scale = loss_scale(dtype, 1, 64)
    step = Step(engine.model, engine.solver, lambda _: options.lr, scale=scale)
    if start and scale is not None:
        scale.restore(load(Path(folder) / f"step-{start:09}", engine.state.tensors)["scale"])
        engine.solver.set_updates(lambda name: step.updates(name, start))
    share = 4 // mesh.layout.data
    own = slice(mesh.data_rank * share, (mesh.data_rank + 1) * share)
    found: dict[str, Any] = {"losses": [], "skipped": [], "moved": [], "scales": []}
    for index, batches in list(enumerate(token_batches(64, 16, 4, STEPS)))[start:]:
        usual = scale and scale.value
        if scale is not None and index == overflow and worker.rank == worker.world_size - 1:
            scale.value = TOO_LARGE
        before = {name: x.clone() for name, x in engine.state.tensors.items()}
        outcome = step(index, batches[own], False, Clock())
        found["losses"].append(outcome.loss)
        found["skipped"].append(outcome.skipped)
        found["moved"].append([name for name, x in engine.state.tensors.items() if not torch.equal(x, before[name])])
        found["scales"].append(scale and scale.value)
        if scale is not None and usual is not None and index == overflow:
            scale.value = usual / 2  # on the last rank too
        if folder and index + 1 == 3 and scale is not None and not start:
            save(Path(folder), 3, engine.state.tensors, {"step": 3, "scale": scale.state()}, attempt=1, keep=1)
    weights = {name: local(x).double().sum().item() for name, x in engine.model.weights().items()}
    return found | {"weights": weights, "updates": step.updates("embed.tokens.weight", STEPS)}


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_an_overflow_is_left_out_on_every_rank(ranks: Callable[..., list[Any]], strategy: str) -> None:
    size = parse_strategy(strategy).world_size
    every = ranks(losses, size, strategy=strategy, dtype="fp16", overflow=2)
    for found in every:
        assert found["skipped"] == [False, False, True, False, False, False]
        assert [bool(moved) for moved in found["moved"]] == [True, True, False, True, True, True]
        assert found["updates"] == STEPS - 1
    first, last = every[0]["scales"], every[-1]["scales"]
    assert last[2] == TOO_LARGE / 2 and first[2] == first[1] / 2


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_losses_are_close_to_those_of_fp32(ranks: Callable[..., list[Any]], strategy: str) -> None:
    size = parse_strategy(strategy).world_size
    exact, rough = (ranks(losses, size, strategy=strategy, dtype=dtype)[0]["losses"] for dtype in ("fp32", "fp16"))
    assert rough != exact
    assert max(abs(a - b) for a, b in zip(exact, rough, strict=True)) <= BOUND


@pytest.mark.parametrize("strategy", ["ddp", "zero3"])
def test_a_run_resumed_behind_an_overflow_is_the_same_run(
    ranks: Callable[..., list[Any]], strategy: str, tmp_path: Path
) -> None:
    call = {"strategy": strategy, "dtype": "fp16", "folder": str(tmp_path)}
    whole = ranks(losses, 2, overflow=1, **call)[0]
    rest = ranks(losses, 2, start=3, **call)[0]
    assert whole["skipped"] == [False, True, False, False, False, False]
    for key in ("losses", "scales", "skipped"):
        assert rest[key] == whole[key][3:]
    assert rest["weights"] == whole["weights"]
