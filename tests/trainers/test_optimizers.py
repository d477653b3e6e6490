"""Updates of parts are parts of the update; every state exists before the first step."""

import pytest
import torch
from shardwright.trainers.optimizers import ShardedOptimizer
from shardwright.trainers.options import OptimizerOptions
from torch import nn


def weights() -> dict[str, nn.Parameter]:
    torch.manual_seed(0)
    return {"matrix": nn.Parameter(torch.randn(4, 3)), "vector": nn.Parameter(torch.randn(4))}


def torch_rule(options: OptimizerOptions, found: dict[str, nn.Parameter]) -> torch.optim.Optimizer:
    groups = [
        {"params": [found["matrix"]], "weight_decay": options.weight_decay},
        {"params": [found["vector"]], "weight_decay": 0.0},
    ]
    if options.name == "sgd":
        return torch.optim.SGD(groups, lr=options.lr, momentum=options.momentum)
    return torch.optim.AdamW(groups, lr=options.lr, betas=options.betas, eps=options.eps)


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_updates_are_torchs(name: str) -> None:
    options = OptimizerOptions(name=name, lr=0.1, weight_decay=0.3)
    ours, theirs = weights(), weights()
    optimizer, rule = ShardedOptimizer(options, ours), torch_rule(options, theirs)
    for step in range(3):
        for found in (ours, theirs):
            for i, parameter in enumerate(found.values()):
                parameter.grad = torch.full_like(parameter, float(step - i))
        optimizer.step(lr=0.1)
        rule.step()
        for key in ours:
            torch.testing.assert_close(ours[key], theirs[key])


@pytest.mark.parametrize(("name", "states"), [("adamw", {"exp_avg", "exp_avg_sq"}), ("sgd", {"momentum_buffer"})])
def test_states_exist_from_the_start_and_nothing_moved(name: str, states: set[str]) -> None:
    before, found = weights(), weights()
    optimizer = ShardedOptimizer(OptimizerOptions(name=name), found)
    assert {key for _, key, _ in optimizer.state()} == states
    for key in before:
        assert torch.equal(before[key], found[key])
        assert found[key].grad is None


def test_a_restored_state_continues_the_same_trajectory() -> None:
    options = OptimizerOptions(lr=0.1)
    ours, twin = weights(), weights()
    whole = ShardedOptimizer(options, ours)
    gradient = {name: torch.randn_like(p) for name, p in ours.items()}

    def step(optimizer: ShardedOptimizer) -> None:
        for name, parameter in optimizer.parameters.items():
            parameter.grad = gradient[name].clone()
        optimizer.step(lr=0.1)

    for _ in range(3):
        step(whole)
    again = ShardedOptimizer(options, twin)
    for (_, _, mine), (_, _, theirs) in zip(again.state(), whole.state(), strict=True):
        mine.copy_(theirs)
    for name in twin:
        twin[name].data.copy_(ours[name].data)
    again.set_updates(lambda _: 3)
    for optimizer in (whole, again):
        step(optimizer)
    for name in ours:
        assert torch.equal(ours[name], twin[name])
