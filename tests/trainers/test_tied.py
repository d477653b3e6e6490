"""Is a weight with three places one weight, wherever its places lie?"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import pytest
import torch
from shardwright.jobs.verify import token_batches
from shardwright.models.entry import Entry, Shape, Unit
from shardwright.trainers.equivalence import Trial, compare
from shardwright.trainers.layout import parse_strategy
from shardwright.trainers.options import OptimizerOptions
from shardwright.trainers.world import Worker
from torch import Tensor, nn
from torch.nn import functional as F

TOLERANCE = 1e-5
TOKENS, WIDTH, VOCABULARY = 6, 8, 32


@dataclass(frozen=True)
class Sizes:
    vocab_size: int = VOCABULARY


class Read(nn.Module):
    """Adds the tokens' vectors to what stands there."""

    def __init__(self, weight: nn.Parameter) -> None:
        super().__init__()
        self.weight, self.mix = weight, nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor, inputs: Tensor) -> Tensor:
        return torch.tanh(self.mix(x + F.embedding(inputs, self.weight)))


class End(Read):
    """Logits by the same weight, and their loss."""

    def forward(self, x: Tensor, targets: Tensor) -> Tensor:
        logits = F.linear(self.mix(x), self.weight).flatten(0, 1)
        return F.cross_entropy(logits, targets.flatten(), reduction="sum", ignore_index=-100)


class Threefold(nn.Module):
    """Reads its tokens twice, between two stages, and ends in the same weight."""

    def __init__(self, config: Sizes) -> None:
        super().__init__()
        weight = nn.Parameter(torch.randn(config.vocab_size, WIDTH))
        self.first: Read | None = Read(weight)
        self.second: Read | None = Read(weight)
        self.last: End | None = End(weight)

    def forward(self, batch: Mapping[str, Tensor], *state: Tensor) -> Any:
        x = state[0] if state else torch.zeros(*batch["inputs"].shape, WIDTH)
        for reading in (self.first, self.second):
            x = x if reading is None else reading(x, batch["inputs"])
        if self.last is None:
            return (x,)
        return {"loss": (self.last(x, batch["targets"]), (batch["targets"] >= 0).sum())}


def units(config: Sizes) -> tuple[Unit, ...]:
    mix = WIDTH * (WIDTH + 1)
    return Unit("first", VOCABULARY * WIDTH + mix), Unit("second", mix), Unit("last", mix)


def boundary(config: Sizes, samples: int, tokens: int) -> tuple[tuple[Shape, str], ...]:
    return (((samples, tokens, WIDTH), "compute"),)


ENTRY = Entry(
    build=Threefold,
    name="threefold",
    config=Sizes,
    presets={"only": Sizes()},
    data="tokens",
    units=units,
    boundary=boundary,
    tied=(("first.weight", "second.weight"), ("first.weight", "last.weight")),
)


def differences(worker: Worker, strategy: str) -> dict[str, float] | None:
    layout = parse_strategy(strategy)
    batches = token_batches(VOCABULARY, TOKENS, 2 * layout.data)
    found = compare(worker, Trial(ENTRY, Sizes(), OptimizerOptions(), 2, TOKENS), layout, batches)
    return found and asdict(found)


@pytest.mark.parametrize("strategy", ["zero3", "pipeline2", "pipeline3", "zero3_pipeline3"])
def test_a_weight_in_three_places_moves_as_one(ranks: Callable[..., list[Any]], strategy: str) -> None:
    found = ranks(differences, parse_strategy(strategy).world_size, strategy=strategy)[0]
    assert all(value <= TOLERANCE for value in found.values()), found
