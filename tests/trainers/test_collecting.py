"""May a phase only act, and learn nothing? Its forward has no gradient, and what follows goes on moving."""

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from shardwright.jobs.verify import verify
from shardwright.models.draw import normal
from shardwright.models.entry import Entry, Follow, Phase, Stream
from shardwright.trainers.layout import parse_strategy
from shardwright.trainers.world import Worker
from torch import Tensor, nn


class Collector(nn.Module):
    """Collects what both layers make of noise, then learns from it."""

    def __init__(self) -> None:
        super().__init__()
        self.online, self.target = nn.Linear(4, 4), nn.Linear(4, 4).requires_grad_(False)

    def forward(self, batch: Mapping[str, Tensor], phase: str) -> dict[str, Any]:
        rows, count = batch["rows"], float(len(batch["rows"]))
        if phase == "collect":
            with torch.no_grad():
                x = normal(batch["key"], "noise", (4,))
                rows = self.online(x) + self.target(x)
            return {"loss": (rows.square().sum(), torch.tensor(count)), "state": {"rows": rows}}
        errors = self.online(rows) - self.target(rows) + self.online(torch.ones_like(rows))
        return {"loss": (errors.square().sum(), torch.tensor(count)), "state": {"rows": rows}}


ENTRY = Entry(
    build=Collector,
    name="collector",
    data="experience",
    phases=(Phase("collect", trains=()), Phase("learn")),
    streams=lambda config: {"rows": Stream((4,))},
    follows=(Follow("target", "online", decay=0.5),),
)


def differences(worker: Worker, strategy: str) -> dict[str, float] | None:
    import sys

    sys.modules["collecting"] = sys.modules[__name__]
    return verify(worker, "collecting:ENTRY", "", {}, "", strategy, {})


@pytest.mark.parametrize("strategy", ["ddp", "zero1", "zero2", "zero3", "hsdp2x2"])
def test_a_phase_may_only_act(ranks: Callable[..., list[Any]], strategy: str) -> None:
    found = ranks(differences, parse_strategy(strategy).world_size, strategy=strategy)[0]
    assert all(value <= 1e-5 for value in found.values()), found
