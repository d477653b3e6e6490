"""Compiled units compute what they compute uncompiled, under any layout, and leave no process behind."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from shardwright.jobs.verify import token_batches
from shardwright.models import draw_operator
from shardwright.models.axes import local
from shardwright.models.catalog import configure, find
from shardwright.models.draw import draw, hashed, keys
from shardwright.models.entry import Entry
from shardwright.trainers.compilation import compile_units
from shardwright.trainers.layout import parse_strategy
from shardwright.trainers.mesh import build_mesh
from shardwright.trainers.parallelize import parallelize
from shardwright.trainers.refusals import compile_refusal
from shardwright.trainers.world import Worker

CONFIG = {"vocab_size": 64, "context": 16, "width": 32, "layers": 1, "dropout": 0.1}
CASES = [("ddp", "none"), ("zero3", "full"), ("tensor2", "none"), ("pipeline2", "full")]


def test_the_operator_of_a_graph_draws_the_same_numbers() -> None:
    key = keys(0, 0, torch.arange(3))
    plain = draw_operator.hashed(key, "a", [2, 4], [], [], [])
    assert torch.equal(plain, hashed(key, "a", (2, 4)))
    part = draw_operator.hashed(key, "a", [2, 4], [1, -1], [torch.tensor([0, 2, 4, 6])], [5, 8])
    assert torch.equal(part, hashed(key, "a", (2, 4), (1, torch.tensor([0, 2, 4, 6])), (5, 8)))
    torch.library.opcheck(
        draw_operator.hashed, (key, "a", [2, 4], [], [], []), test_utils=("test_schema", "test_faketensor")
    )
    assert draw(key, "a", ()).shape == (3,)


def test_what_has_no_units_is_refused_by_sentence() -> None:
    assert compile_refusal(find("gpt2")) == ""
    assert compile_refusal(Entry(build=lambda: None, loss=lambda network, batch: None)) == ""
    assert "wgan_gp names no units to compile" in compile_refusal(find("wgan_gp"))
    with pytest.raises(ValueError, match="cannot differentiate a compiled graph"):
        compile_units(find("wgan_gp"), torch.nn.Linear(1, 1), [])


def compared(worker: Worker) -> list[dict[str, Any]]:
    """For each case the difference that compiling makes, and what was compiled."""
    return [one_case(worker, strategy, recompute) for strategy, recompute in CASES]


def one_case(worker: Worker, strategy: str, recompute: str) -> dict[str, Any]:
    from torch._dynamo.utils import counters

    torch._dynamo.reset()
    counters.clear()
    mesh = build_mesh(parse_strategy(strategy), worker.rank, worker.device)
    plain, compiled = (gradients(mesh, recompute, compiled) for compiled in (False, True))
    largest = max(x.abs().max().item() for x in plain.values() if x.numel())
    furthest = max((compiled[name] - x).abs().max().item() for name, x in plain.items() if x.numel())
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    return {
        "difference": furthest / largest,
        "graphs": counters["stats"]["unique_graphs"],
        "breaks": dict(counters["graph_break"]),
        "children": children,
    }


def gradients(mesh: Any, recompute: str, compiled: bool) -> dict[str, torch.Tensor]:
    entry = find("gpt2")
    config = configure(entry, "tiny", CONFIG)
    sharded = parallelize(entry, config, mesh, seed=0, tokens=16, recompute=recompute, compiled=compiled)
    own = slice(2 * mesh.data_rank, 2 * mesh.data_rank + 2)
    sharded.run(token_batches(64, 16, 4, 1)[0][own])
    return {name: local(p.grad) for name, p in sharded.parameters.items() if p.grad is not None}


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_compiled_gradients_are_those_of_plain_units(ranks: Callable[..., list[Any]]) -> None:
    for found in ranks(compared, 2, deadline=550):
        for case, each in zip(CASES, found, strict=True):
            assert each["difference"] <= 1e-5, case
            assert each["graphs"] > 0 and not each["breaks"], case
            assert not each["children"], case
