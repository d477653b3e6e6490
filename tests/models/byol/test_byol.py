"""Is BYOL's loss the paper's, does its target follow, does it learn features, and does no layout change it?"""

from collections.abc import Callable
from math import cos, pi
from typing import Any

import pytest
import torch
from probing import probe
from records import check_record, counted_flops
from shardwright.jobs.verify import verify
from shardwright.models.byol.entry import ENTRY, PRESETS, BYOLConfig, decay, flops, follows
from shardwright.models.byol.model import BYOL, distance
from shardwright.models.catalog import legal
from shardwright.models.draw import keys
from shardwright.models.layers.views import view
from shardwright.trainers.follow import Following
from shardwright.trainers.layout import parse_strategy
from shardwright.trainers.world import Worker
from torch import Tensor
from torch.nn import functional as F

TINY = PRESETS["tiny"]


def batch(samples: int = 6) -> dict[str, Tensor]:
    images = torch.rand(samples, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    return {"image": images, "key": keys(0, 0, torch.arange(samples))}


@pytest.mark.parametrize("preset", PRESETS)
def test_the_record_is_that_of_the_built_model(preset: str) -> None:
    check_record("byol", preset)


def test_the_papers_sizes() -> None:
    paper = PRESETS["imagenet"]
    assert (paper.hidden, paper.embedding, paper.decay) == (4096, 256, 0.996)


def test_the_target_begins_as_the_online_network_and_is_not_trained() -> None:
    program = BYOL(TINY)
    for one, other in zip(program.online.parameters(), program.target.parameters(), strict=True):
        assert torch.equal(one, other) and one is not other and not other.requires_grad
    loss, _ = program(batch())["loss"]
    loss.backward()
    assert all(parameter.grad is None for parameter in program.target.parameters())
    assert all(p.grad is not None for part in (program.online, program.prediction) for p in part.parameters())


def test_the_loss_is_equation_2_in_both_directions() -> None:
    program, data = BYOL(TINY), batch()
    first, second = (view(data["image"], data["key"], name, TINY) for name in ("first", "second"))
    expected = torch.zeros(())
    for seen, other in ((first, second), (second, first)):
        predicted = F.normalize(program.prediction(program.online(seen)), dim=-1)
        aim = F.normalize(program.target(other), dim=-1)
        expected = expected + (predicted - aim).square().sum()
    loss, count = program(data)["loss"]
    assert count == 6 and torch.allclose(loss, expected, atol=1e-5)


def test_the_distance_does_not_depend_on_lengths() -> None:
    one, other = torch.randn(4, 3), torch.randn(4, 3)
    assert torch.allclose(distance(3 * one, other / 7), distance(one, other), atol=1e-5)
    assert torch.allclose(distance(one, one), torch.zeros(()), atol=1e-5)
    assert torch.allclose(distance(one, -one), torch.tensor(16.0), atol=1e-5)


def test_the_decay_rises_from_its_base_to_one() -> None:
    assert decay(0.996, 0, 1000) == pytest.approx(0.996)
    assert decay(0.996, 250, 1000) == pytest.approx(1 - 0.004 * (cos(pi / 4) + 1) / 2)
    assert decay(0.996, 1000, 1000) == 1.0
    (one,) = follows(BYOLConfig(decay=0.5))
    assert one.decay(0, 8) == pytest.approx(0.5)  # type: ignore[operator]


def test_flops_are_those_that_torch_counts() -> None:
    assert flops(TINY, 1) == counted_flops("byol", "tiny", batch(1))


def test_a_pipeline_is_refused_with_a_reason() -> None:
    assert "two networks side by side" in str(legal(ENTRY, TINY)["pipeline"])


@pytest.mark.parametrize(("sizes", "message"), [({"decay": 1.5}, "decay=1.5 is not in"), ({"hidden": 0}, "hidden=0")])
def test_impossible_sizes_are_refused(sizes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BYOLConfig(**sizes)


def test_its_features_say_more_than_pixels(ranks: Callable[..., list[Any]]) -> None:
    learning = {"preset": "digits", "steps": 150, "batch": 128, "optimizer": {"lr": 1e-2}}
    found = ranks(probe, 1, deadline=200, name="byol", labels=2, **learning)[0]
    assert found["features"] > found["pixels"] + 0.03, found


def early() -> None:
    """The target follows the online network as it was before the update."""
    original = Following.step

    def step(self: Following, updates: int) -> None:
        now = [source.detach().clone() for _, _, source in self.pairs]
        before = getattr(self, "before", now)
        with torch.no_grad():
            for (_, _, source), old in zip(self.pairs, before, strict=True):
                source.copy_(old)
            original(self, updates)
            for (_, _, source), new in zip(self.pairs, now, strict=True):
                source.copy_(new)
        self.before = now  # type: ignore[attr-defined]

    Following.step = step  # type: ignore[method-assign]


def torn() -> None:
    """One rank stops half-way through the target."""
    original = Following.step

    def step(self: Following, updates: int) -> None:
        whole = self.pairs
        if torch.distributed.get_rank() == 1:
            self.pairs = whole[: len(whole) // 2]
        original(self, updates)
        self.pairs = whole

    Following.step = step  # type: ignore[method-assign]


FAULTS = {"": lambda: None, "early": early, "torn": torn}


def differences(worker: Worker, strategy: str, fault: str = "") -> dict[str, float] | None:
    FAULTS[fault]()
    return verify(worker, "byol", "tiny", {}, "", strategy, {})


@pytest.mark.parametrize("strategy", ["zero2", "zero3", "tensor2", "zero3x2_tensor2"])
def test_a_layout_never_changes_the_result(ranks: Callable[..., list[Any]], strategy: str) -> None:
    found = ranks(differences, parse_strategy(strategy).world_size, strategy=strategy)[0]
    assert all(value <= 1e-5 for value in found.values()), found


@pytest.mark.parametrize("fault", ["early", "torn"])
def test_a_target_that_follows_wrongly_is_found(ranks: Callable[..., list[Any]], fault: str) -> None:
    found = ranks(differences, 2, strategy="zero3", fault=fault)[0]
    assert found["weight"] > 1e-4, found
