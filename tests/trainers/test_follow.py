"""Do targets follow their sources as the closed form says, on every shard, and through a checkpoint?"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from shardwright.models.byol.entry import PRESETS
from shardwright.models.catalog import find
from shardwright.models.entry import Follow, followers
from shardwright.trainers.checkpoint.store import save
from shardwright.trainers.follow import Following
from shardwright.trainers.layout import parse_strategy
from shardwright.trainers.mesh import build_mesh
from shardwright.trainers.parallelize import parallelize
from shardwright.trainers.state import persistent_buffers
from shardwright.trainers.whole import whole_program
from shardwright.trainers.world import Worker
from torch import nn
from torch.distributed.tensor import DTensor

STEPS = 6


def pair() -> dict[str, nn.Parameter]:
    return {
        "online.weight": nn.Parameter(torch.arange(4.0)),
        "target.weight": nn.Parameter(torch.ones(4), requires_grad=False),
        "other.weight": nn.Parameter(torch.full((4,), 7.0)),
    }


def test_a_constant_decay_gives_a_geometric_mean_of_what_was() -> None:
    parameters = pair()
    following = Following([Follow("target", "online", 0.9)], parameters, STEPS)
    expected = torch.ones(4)
    for step in range(1, STEPS + 1):
        with torch.no_grad():
            parameters["online.weight"] += step
        following.step(step)
        expected = 0.9 * expected + 0.1 * parameters["online.weight"].detach()
    assert torch.allclose(parameters["target.weight"], expected)
    assert torch.equal(parameters["other.weight"], torch.full((4,), 7.0))


def test_a_decay_may_depend_on_the_update_and_the_run() -> None:
    asked: list[tuple[int, int]] = []

    def decay(updates: int, steps: int) -> float:
        asked.append((updates, steps))
        return 0.0 if updates == 2 else 1.0

    parameters = pair()
    following = Following([Follow("target", "online", decay)], parameters, STEPS)
    following.step(1)
    assert torch.equal(parameters["target.weight"], torch.ones(4))
    following.step(2)
    assert torch.equal(parameters["target.weight"], parameters["online.weight"])
    assert asked == [(1, STEPS), (2, STEPS)]


def test_some_targets_wait_for_their_turn() -> None:
    parameters = pair()
    following = Following([Follow("target", "online", 0.0, every=3)], parameters, STEPS)
    moved = []
    for step in range(1, STEPS + 1):
        with torch.no_grad():
            parameters["online.weight"] += 1
        following.step(step)
        moved.append(torch.equal(parameters["target.weight"], parameters["online.weight"]))
    assert moved == [False, False, True, False, False, True]


def test_what_cannot_follow_is_refused() -> None:
    parameters = pair()
    with pytest.raises(ValueError, match=r"target.weight follows nobody, which has no parameter"):
        Following([Follow("target", "nobody", 0.9)], parameters, STEPS)
    parameters["target.weight"].requires_grad_()
    with pytest.raises(ValueError, match=r"it is not trained: set requires_grad=False"):
        Following([Follow("target", "online", 0.9)], parameters, STEPS)


def test_followers_may_depend_on_the_config() -> None:
    byol = find("byol")
    (one,) = followers(byol, PRESETS["imagenet"])
    assert (one.target, one.source) == ("target", "online")
    assert followers(find("mlp"), None) == ()


def saved(worker: Worker, strategy: str, folder: str) -> dict[str, float] | None:
    """How far a checkpoint's target is from the closed form, after updates by hand of sharded parameters."""
    entry = find("byol")
    mesh = build_mesh(parse_strategy(strategy), worker.rank, worker.device)
    sharded = parallelize(entry, PRESETS["tiny"], mesh, seed=0, tokens=0)
    following = Following([Follow("target", "online", 0.75)], sharded.parameters, STEPS)
    whole = {n: p.full_tensor() if isinstance(p, DTensor) else p for n, p in sharded.parameters.items()}
    first = {name: tensor.detach().clone() for name, tensor in whole.items()}
    for step in range(1, STEPS + 1):
        with torch.no_grad():
            for name, parameter in sharded.parameters.items():
                if name.startswith("online."):
                    parameter.mul_(1.5)
        following.step(step)
    tensors = {f"model.{name}": p.detach() for name, p in sharded.parameters.items()}
    tensors |= {f"model.{name}": buffer for name, buffer in persistent_buffers(sharded.program).items()}
    path = save(Path(folder), STEPS, tensors, {"step": STEPS}, attempt=0, keep=1)
    if worker.rank:
        return None
    torch.distributed.destroy_process_group()
    program = whole_program(entry, PRESETS["tiny"], path)
    share = 0.75**STEPS + sum(0.25 * 0.75 ** (STEPS - step) * 1.5**step for step in range(1, STEPS + 1))
    found = dict(program.named_parameters())
    return {
        "target": max(float((found[n] - x * share).abs().max()) for n, x in first.items() if n.startswith("target.")),
        "size": max(float(x.abs().max()) * share for n, x in first.items() if n.startswith("target.")),
    }


@pytest.mark.parametrize("strategy", ["zero3", "zero1_tensor2"])
def test_targets_are_sharded_and_saved_like_parameters(
    ranks: Callable[..., list[Any]], tmp_path: Path, strategy: str
) -> None:
    found = ranks(saved, parse_strategy(strategy).world_size, strategy=strategy, folder=str(tmp_path))[0]
    assert found["target"] < 1e-6 * found["size"], found
