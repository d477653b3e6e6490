"""A parameter that takes no part in a step, or in one micro-batch of it, under every engine; or on one rank."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from shardwright.models.entry import Entry, Unit
from shardwright.trainers.clock import Clock
from shardwright.trainers.engine import build_engine
from shardwright.trainers.layout import parse_strategy
from shardwright.trainers.mesh import build_mesh
from shardwright.trainers.options import OptimizerOptions
from shardwright.trainers.step import Step
from shardwright.trainers.terms import Batch
from shardwright.trainers.world import Worker
from torch import Tensor, nn

PLAIN = OptimizerOptions(name="sgd", lr=1.0, momentum=0.0, weight_decay=0.0)
DATA = [  # of each step, of each rank: (input, whether the second layer takes part) of two samples, a micro-batch each
    [[(1.0, True), (2.0, True)], [(3.0, True), (4.0, True)]],
    [[(5.0, False), (6.0, False)], [(7.0, False), (8.0, False)]],  # nowhere
    [[(1.0, True), (2.0, False)], [(3.0, True), (4.0, False)]],  # in the first micro-batch
    [[(1.0, True), (2.0, True)], [(3.0, False), (4.0, False)]],  # on one rank
]
BY_RANK = 3  # the step in which ranks differ; DeepSpeed waits for ever or dies there, as fully_shard does


class Sometimes(nn.Module):
    """A sum of two layers, the second now and then."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(1, 3), nn.Linear(1, 3)

    def forward(self, batch: Batch) -> dict[str, tuple[Tensor, Tensor]]:
        out = self.first(batch["inputs"])
        if batch["used"].any():
            out = out + self.second(batch["inputs"])
        return {"loss": (0.01 * out.square().sum(), torch.tensor(float(len(out))))}


ENTRY = Entry(name="sometimes", build=lambda _: Sometimes(), units=lambda _: (Unit("first", 6), Unit("second", 6)))


def batch(samples: list[tuple[float, bool]]) -> Batch:
    inputs, used = zip(*samples, strict=True)
    return {"inputs": torch.tensor(inputs).unsqueeze(1), "used": torch.tensor(used)}


def weights_after_each_step(worker: Worker, strategy: str, steps: int) -> list[dict[str, Any]]:
    layout = parse_strategy(strategy)
    mesh = build_mesh(layout, worker.rank, worker.device)
    engine = build_engine(ENTRY, 0, mesh, PLAIN, 0.0, seed=0, tokens=0)
    step = Step(engine.model, engine.solver, lambda _: PLAIN.lr)
    found = []
    for index, ranks in enumerate(DATA[:steps]):
        mine = ranks[mesh.data_rank] if layout.data > 1 else [sample for rank in ranks for sample in rank]
        step(index, [batch([sample]) for sample in mine], False, Clock())
        found.append({name: weight.tolist() for name, weight in engine.model.weights().items()})
    return found


@pytest.mark.parametrize(
    ("strategy", "steps"),
    [
        ("deepspeed_zero1", BY_RANK),
        ("deepspeed_zero2", BY_RANK),
        ("deepspeed_zero3", BY_RANK),
        ("fairscale_oss", len(DATA)),
        ("horovod", len(DATA)),
    ],
)
def test_it_is_as_in_one_process(ranks: Callable[..., list[Any]], strategy: str, steps: int) -> None:
    pytest.importorskip(parse_strategy(strategy).engine, reason="the engine is not installed")
    alone = ranks(weights_after_each_step, 1, strategy="tensor1", steps=steps)[0]
    assert alone[1]["second.weight"] == alone[0]["second.weight"] != alone[2]["second.weight"]
    found = ranks(weights_after_each_step, 2, strategy=strategy, steps=steps, deadline=120)[0]
    for step, weights in enumerate(alone):
        for name, value in weights.items():
            told = f"{name} after step {step}"
            torch.testing.assert_close(torch.tensor(found[step][name]), torch.tensor(value), msg=told)
