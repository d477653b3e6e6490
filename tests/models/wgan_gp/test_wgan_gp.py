"""Are WGAN-GP's losses the paper's, does the generator come near the digits, and do gradients of gradients split?"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from entries import TOLERANCE, check_differences, differences
from learning import train
from records import check_record
from shardwright.cluster.call import RankFailure
from shardwright.models.catalog import find
from shardwright.models.draw import draw, keys, normal
from shardwright.models.layers import collectives
from shardwright.models.wgan_gp.entry import PRESETS, WGANGPConfig, parameters
from shardwright.models.wgan_gp.model import WGANGP, Generator, penalty
from shardwright.trainers.layout import Layout
from shardwright.trainers.mesh import build_mesh
from shardwright.trainers.parallelize import parallelize
from shardwright.trainers.world import Worker
from torch import Tensor, nn

TINY = PRESETS["tiny"]


def built() -> WGANGP:
    torch.manual_seed(0)
    return WGANGP(TINY)


def batch(samples: int = 6) -> dict[str, Tensor]:
    image = torch.rand(samples, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    return {"image": image, "key": keys(0, 0, torch.arange(samples))}


@pytest.mark.parametrize("preset", PRESETS)
def test_the_record_is_that_of_the_built_model(preset: str) -> None:
    check_record("wgan_gp", preset)


def test_presets_have_the_papers_sizes() -> None:
    mnist = PRESETS["mnist"]
    assert (mnist.width, mnist.latent, mnist.penalty, mnist.sides) == (64, 128, 10.0, (28, 14, 7, 4))
    critic = 25 * 64 * (1 + 128 + 2 * 256) + 64 * 7 + 4096 + 1
    generator = 4096 * 129 + 25 * 64 * (2 * 256 + 128 + 1) + 64 * 3 + 1
    assert parameters(mnist) == critic + generator


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"width": 0}, "width=0 is not positive"),
        ({"penalty": -1.0}, "penalty=-1.0 is negative"),
        ({"side": 8, "levels": 5}, "levels=5 halve a side of 8 more often"),
    ],
)
def test_impossible_sizes_are_refused(sizes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        WGANGPConfig(**sizes)


def test_images_have_the_size_of_the_data() -> None:
    for config in (TINY, WGANGPConfig(side=7, width=4, levels=2), WGANGPConfig(width=2)):
        images = Generator(config)(torch.zeros(2, config.latent))
        assert images.shape == (2, 1, config.side, config.side)


def test_the_penalty_of_a_linear_critic_is_known() -> None:
    """Its slope is its weight everywhere: (|w| - 1)^2, and the gradient by w is 2 (|w| - 1) w / |w|."""
    linear = nn.Linear(12, 1)
    found = penalty(lambda x: linear(x.flatten(1)).squeeze(1), torch.randn(5, 3, 4))
    norm = linear.weight.norm()
    torch.testing.assert_close(found, (norm - 1).square().expand(5))
    found.mean().backward()
    torch.testing.assert_close(linear.weight.grad, 2 * (norm - 1) * linear.weight / norm)
    assert linear.bias.grad is None


def test_the_penalty_of_a_quadratic_critic_is_known() -> None:
    """The slope of x A x / 2 is A x: a penalty that depends on where it is taken."""
    matrix, x = torch.randn(4, 4), torch.randn(7, 4)
    matrix = (matrix + matrix.T).requires_grad_()
    found = penalty(lambda x: ((x @ matrix) * x).sum(1) / 2, x)
    expected = ((x @ matrix).norm(dim=1) - 1).square()
    torch.testing.assert_close(found, expected)
    gradient = torch.autograd.grad(found.sum(), matrix)[0]
    known = torch.autograd.grad(expected.sum(), matrix)[0]
    torch.testing.assert_close(gradient + gradient.T, known + known.T)  # of a symmetric matrix no more is determined


def test_each_phase_has_the_papers_loss() -> None:
    program, given = built(), batch()
    latent = normal(given["key"], "latent", (TINY.latent,))
    made = program.generator(latent)
    share = draw(given["key"], "between", (1, 1, 1))
    assert share.unique().numel() == 6  # every sample its own
    x = (share * given["image"] + (1 - share) * made).detach().requires_grad_()
    (slope,) = torch.autograd.grad(program.critic(x).sum(), x)
    steep = (slope.square().sum((1, 2, 3)).sqrt() - 1).square()
    critic = program(given, phase="critic")
    torch.testing.assert_close(critic["penalty"][0], steep.sum())
    score = program.critic(made) - program.critic(given["image"])
    torch.testing.assert_close(critic["loss"][0], (score + 10 * steep).sum())
    torch.testing.assert_close(program(given, phase="generator")["loss"][0], -program.critic(made).sum())
    assert {float(count) for _, count in critic.values()} == {6.0}


def test_the_critics_loss_does_not_reach_the_generator() -> None:
    program, given = built(), batch()
    program(given, phase="critic")["loss"][0].backward()
    assert all(p.grad is None for p in program.generator.parameters())
    assert all(p.grad is not None for p in program.critic.parameters())


def confusion(a: Tensor, b: Tensor) -> float:
    """Share of samples whose nearest other one is of their own kind: 0.5 where none can tell a from b, 1.0 at worst.

    The leave-one-out two-sample test of Lopez-Paz and Oquab (2017).
    """
    both = torch.cat((a, b)).flatten(1)
    kind = torch.arange(len(both)) < len(a)
    distance = torch.cdist(both, both).fill_diagonal_(float("inf"))
    return float((kind == kind[distance.argmin(1)]).float().mean())


def distance(a: Tensor, b: Tensor) -> float:
    """The energy distance of two samples, 0 where they are drawn alike (Szekely and Rizzo, 2013); without bias."""
    a, b = a.flatten(1), b.flatten(1)
    within = [torch.cdist(x, x).sum() / (len(x) * (len(x) - 1)) for x in (a, b)]
    return float(2 * torch.cdist(a, b).mean() - sum(within))


def compared(worker: Worker, steps: int) -> dict[str, float]:
    """How far made digits are from held-out ones, before and after training, and how far training ones are."""
    optimizer = {"lr": 5e-3, "betas": (0.0, 0.9), "weight_decay": 0.0}
    found: dict[str, float] = {}
    for name, count in (("first", 1), ("last", steps)):
        trained = train(worker, "wgan_gp", count, batch=32, optimizer=optimizer)
        real = torch.from_numpy(trained.source.held_out.arrays["image"])
        latent = normal(keys(9, 0, torch.arange(len(real))), "latent", (TINY.latent,))
        with torch.no_grad():
            made = trained.sharded.program.generator(latent)
        found |= {f"{name} distance": distance(real, made), f"{name} confusion": confusion(real, made)}
    held_in = torch.from_numpy(trained.source.train.arrays["image"])
    average = held_in.mean(0).expand_as(real)
    return found | {"real distance": distance(real, held_in), "average distance": distance(real, average)}


def test_made_digits_come_near_real_ones(ranks: Callable[..., list[Any]]) -> None:
    (found,) = ranks(compared, 1, deadline=200, steps=400)
    assert found["last distance"] < 0.1 * found["average distance"] < 0.1 * found["first distance"], found
    assert found["last confusion"] < found["first confusion"] == 1.0, found
    assert abs(found["real distance"]) < 0.01, found


def recomputed(worker: Worker, how: str) -> float:
    """How far the critic's gradient is from that of a Program that keeps everything, relative to the largest one."""
    entry, found = find("wgan_gp"), []
    for recompute in ("none", how):
        mesh = build_mesh(Layout(), worker.rank, worker.device)
        sharded = parallelize(entry, TINY, mesh, seed=0, tokens=0, recompute=recompute)
        sharded.run([batch()], phase="critic")
        found.append({name: p.grad for name, p in sharded.parameters.items() if name.startswith("critic.")})
    largest = max(float(x.abs().max()) for x in found[0].values())
    return max(float((x - found[1][name]).abs().max()) for name, x in found[0].items()) / largest


def test_a_penalty_can_be_recomputed_whole_but_not_in_parts(ranks: Callable[..., list[Any]]) -> None:
    assert ranks(recomputed, 1, how="full")[0] <= TOLERANCE
    with pytest.raises(RankFailure, match="goes back through the critic twice, and torch allows it once; say full"):
        ranks(recomputed, 1, how="selective")


def cut(worker: Worker, strategies: list[str]) -> dict[str, dict[str, float]] | None:
    """Entering a split region sums the gradient, and the sum has no graph of its own, as in Megatron-LM's layers."""

    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return collectives._sum(gradient.detach(), ctx.axis), None

    collectives._Enter.backward = staticmethod(backward)
    return differences(worker, "wgan_gp", strategies)


def test_a_layout_never_changes_the_result(ranks: Callable[..., list[Any]]) -> None:
    check_differences(ranks(differences, 2, name="wgan_gp", strategies=["ddp", "zero2", "zero3", "tensor2"])[0])


def test_a_penalty_whose_graph_is_cut_is_found(ranks: Callable[..., list[Any]]) -> None:
    """The loss is right at first; only the gradient of the gradient lacks what came through the split layers."""
    found = ranks(cut, 2, strategies=["tensor2"])[0]["tensor2"]
    assert found["gradient"] > 100 * TOLERANCE, found
