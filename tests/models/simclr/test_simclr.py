"""Is SimCLR's loss the paper's over all data ranks, does it learn features, and does no layout change it?"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from probing import probe
from records import check_record, counted_flops
from shardwright.jobs.verify import verify
from shardwright.models.axes import Axis
from shardwright.models.catalog import find, legal
from shardwright.models.draw import keys
from shardwright.models.simclr import model
from shardwright.models.simclr.entry import ENTRY, PRESETS, SimCLRConfig, flops
from shardwright.models.simclr.model import SimCLR, nt_xent
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
    check_record("simclr", preset)


def test_the_papers_sizes() -> None:
    paper = PRESETS["imagenet"]
    assert (paper.embedding, paper.crop, paper.flip, paper.jitter, paper.grey) == (128, 0.08, 0.5, 1.0, 0.2)


@pytest.mark.parametrize("temperature", [0.1, 0.5])
def test_the_loss_is_lightlys(temperature: float) -> None:
    from lightly.loss import NTXentLoss

    embeddings = torch.randn(12, 5, requires_grad=True)
    loss, count = nt_xent(F.normalize(embeddings, dim=-1), temperature, Axis())["loss"]
    expected = NTXentLoss(temperature)(*embeddings.chunk(2))
    assert count == 12 and torch.allclose(loss / count, expected, atol=1e-6)
    ours, theirs = (torch.autograd.grad(x, embeddings)[0] for x in (loss / count, expected))
    assert torch.allclose(ours, theirs, atol=1e-6)


def test_the_loss_is_equation_1() -> None:
    z = F.normalize(torch.randn(4, 3), dim=-1)  # images a, b: views a1, b1, a2, b2
    similar = (z @ z.T / 0.5).exp()
    partner = {0: 2, 1: 3, 2: 0, 3: 1}
    each = [-(similar[i, j] / (similar[i].sum() - similar[i, i])).log() for i, j in partner.items()]
    assert torch.allclose(nt_xent(z, 0.5, Axis())["loss"][0], torch.stack(each).sum(), atol=1e-5)


def test_accuracy_counts_views_that_are_nearest_to_their_partner() -> None:
    z = F.normalize(torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.1], [0.9, 0.2]]), dim=-1)
    right, count = nt_xent(z, 0.5, Axis())["accuracy"]
    assert (right.item(), count.item()) == (3.0, 4.0)  # a2 is nearer to b2 than b1 is


def test_two_views_of_each_image_go_through_one_network() -> None:
    program = SimCLR(TINY)
    seen: list[Tensor] = []
    program.encoder.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    program(batch())
    (views,) = seen
    first, second = views.chunk(2)
    assert first.shape == batch()["image"].shape and not torch.equal(first, second)
    assert program.represent(batch()["image"]).shape == (6, TINY.features)


def test_flops_are_those_that_torch_counts() -> None:
    compared = 2 * 2 * 2 * TINY.embedding  # of one sample's two views with each other
    assert flops(TINY, 1) == counted_flops("simclr", "tiny", batch(1)) - compared


def test_a_pipeline_is_refused_with_a_reason() -> None:
    assert "one micro-batch" in str(legal(ENTRY, TINY)["pipeline"])
    assert find("simclr").coupled == "batch"
    with pytest.raises(ValueError, match=r"temperature=0.0 is not positive"):
        SimCLRConfig(temperature=0.0)


def test_its_features_say_more_than_pixels(ranks: Callable[..., list[Any]]) -> None:
    learning = {"steps": 100, "batch": 128, "optimizer": {"lr": 5e-3}}
    found = ranks(probe, 1, deadline=200, name="simclr", labels=2, **learning)[0]
    assert found["features"] > found["pixels"] + 0.05, found


def differences(worker: Worker, strategy: str, fault: bool = False) -> dict[str, float] | None:
    if fault:
        model.gather = lambda x, axis, dim: x  # embeddings of this rank alone
        own = model.nt_xent
        model.nt_xent = lambda x, temperature, data: own(x, temperature, Axis())
    return verify(worker, "simclr", "tiny", {}, "", strategy, {})


@pytest.mark.parametrize("strategy", ["zero3", "tensor2", "ddp_tensor2"])
def test_a_layout_never_changes_the_result(ranks: Callable[..., list[Any]], strategy: str) -> None:
    found = ranks(differences, parse_strategy(strategy).world_size, strategy=strategy)[0]
    assert all(value <= 1e-5 for value in found.values()), found


def test_embeddings_of_one_rank_alone_are_found(ranks: Callable[..., list[Any]]) -> None:
    found = ranks(differences, 2, strategy="ddp", fault=True)[0]
    assert found["loss"] > 1e-2 and found["gradient"] > 1e-2, found
