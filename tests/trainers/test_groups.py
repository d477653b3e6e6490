"""Groups of parameters move differently, or not at all, and no layout changes how."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from shardwright.jobs.verify import token_batches, verify_each
from shardwright.models.catalog import configure, find
from shardwright.trainers.checkpoint.store import load, save
from shardwright.trainers.clock import Clock
from shardwright.trainers.engine import build_engine
from shardwright.trainers.groups import Group, check_patterns, freeze, group_of, read_groups
from shardwright.trainers.layout import parse_strategy
from shardwright.trainers.mesh import build_mesh
from shardwright.trainers.options import OptimizerOptions
from shardwright.trainers.step import Step
from shardwright.trainers.world import Worker
from torch import nn

CONFIG = {"vocab_size": 64, "context": 16, "width": 32, "layers": 2, "dropout": 0.1}
FROZEN = {"embed.*": {"frozen": True}}  # in GPT-2 a tied weight, and one that is not
GROUPS = {"embed.positions.weight": {"frozen": True}, "blocks.1.*": {"lr": 0.1, "weight_decay": 0.01}}
TWO = ["ddp", "zero1", "zero2", "zero3", "zero3_offload", "tensor2", "pipeline2"]
FOUR = ["hsdp2x2", "tensor2_pipeline2"]


def test_the_first_pattern_that_fits_decides() -> None:
    groups = read_groups({"a.*": {"lr": 0.5}, "*.bias": {"weight_decay": 0.0, "frozen": True}})
    assert group_of(groups, "a.bias") == Group("a.*", lr=0.5)
    assert group_of(groups, "b.bias") == Group("*.bias", weight_decay=0.0, frozen=True)
    assert group_of(groups, "b.weight") == Group()


@pytest.mark.parametrize(
    ("table", "sentence"),
    [
        ({"a": 0.1}, r"'a' is 0.1, expected a table with lr, weight_decay, frozen"),
        ({"a": {"rate": 0.1}}, r"'a' has no key 'rate'"),
        ({"a": {"lr": -1}}, r"lr = -1, expected a factor of the learning rate"),
        ({"a": {"lr": True}}, r"lr = True"),
        ({"a": {"frozen": 1}}, r"frozen = 1, expected true or false"),
    ],
)
def test_a_wrong_group_is_refused(table: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        read_groups(table)


def test_a_pattern_that_fits_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'bock.\*' fits no parameter; the first of 1 are block.weight"):
        check_patterns(read_groups({"bock.*": {"lr": 0.1}}), ["block.weight"])


def test_frozen_parameters_have_no_gradient_and_something_is_left() -> None:
    layer = nn.Linear(2, 2)
    freeze(read_groups({"bias": {"frozen": True}}), dict(layer.named_parameters()))
    assert layer.weight.requires_grad and not layer.bias.requires_grad
    with pytest.raises(ValueError, match="freeze every parameter"):
        freeze(read_groups({"*": {"frozen": True}}), dict(layer.named_parameters()))


def differences(worker: Worker, strategies: list[str], groups: dict[str, Any]) -> dict[str, dict[str, float]] | None:
    return verify_each(worker, "gpt2", "tiny", CONFIG, "", strategies, {"groups": groups})


@pytest.mark.parametrize("strategies", [TWO, FOUR], ids=["two ranks", "four ranks"])
@pytest.mark.parametrize("groups", [FROZEN, GROUPS], ids=["tied", "untied"])
def test_groups_are_those_of_one_process(ranks: Callable[..., list[Any]], strategies: list[str], groups: Any) -> None:
    size = parse_strategy(strategies[0]).world_size
    found = ranks(differences, size, strategies=strategies, groups=groups)[0]
    assert list(found) == strategies
    assert all(value <= 1e-5 for each in found.values() for value in each.values()), found


def trained(worker: Worker, strategy: str, groups: dict[str, Any], folder: str, start: int) -> dict[str, Any]:
    """Steps 3 and 4, after a checkpoint that is loaded or else made; their losses, and what moved."""
    entry, options = find("gpt2"), OptimizerOptions(groups=groups)
    config, mesh = configure(entry, "tiny", CONFIG), build_mesh(parse_strategy(strategy), worker.rank, worker.device)
    engine = build_engine(entry, config, mesh, options, 1.0, seed=0, tokens=16)
    before = {name: p.detach().clone() for name, p in engine.model.weights().items()}
    if start:
        load(Path(folder) / f"step-{start:09}", engine.state.tensors)
        engine.solver.set_updates(lambda _: start)
    step = Step(engine.model, engine.solver, lambda _: 1e-2)
    share = 4 // mesh.layout.data
    own = slice(mesh.data_rank * share, (mesh.data_rank + 1) * share)
    batches = [each[own] for each in token_batches(64, 16, 4, 4)]
    for index in range(start, 2):
        step(index, batches[index], False, Clock())
    if not start:
        save(Path(folder), 2, engine.state.tensors, {"step": 2}, attempt=1, keep=1)
    losses = [step(index, batches[index], False, Clock()).loss for index in (2, 3)]
    moved = [name for name, p in engine.model.weights().items() if not torch.equal(p, before[name])]
    return {"losses": losses, "moved": moved}


@pytest.mark.parametrize("other", ["ddp", "tensor2", "pipeline2"])
def test_a_checkpoint_of_frozen_parameters_loads_elsewhere(
    ranks: Callable[..., list[Any]], other: str, tmp_path: Path
) -> None:
    call = {"groups": FROZEN, "folder": str(tmp_path)}
    first = ranks(trained, 2, strategy="zero3", start=0, **call)[0]
    assert first["moved"] and not [name for name in first["moved"] if name.startswith("embed.")]
    there = ranks(trained, 2, strategy=other, start=2, **call)[0]
    assert there["losses"] == pytest.approx(first["losses"], abs=1e-5)
