"""Is the Boltzmann machine's arithmetic that of its exact probabilities, does it learn digits, and does it split?

The oracle writes down all states of a small machine.
"""

from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from entries import check_differences, differences
from learning import learn
from records import check_record
from shardwright.models.draw import keys
from shardwright.models.rbm.entry import PRESETS, RBMConfig
from shardwright.models.rbm.model import RBM
from shardwright.trainers.data.samples.digits import load
from torch import Tensor, nn

SMALL = RBMConfig(visible=5, hidden=3)


def built(config: RBMConfig = SMALL) -> RBM:
    """A machine with strong ties."""
    torch.manual_seed(0)
    program = RBM(config)
    for parameter in program.parameters():
        nn.init.normal_(parameter)
    return program


def states(units: int) -> Tensor:
    """All of them, [2^units, units]."""
    return torch.tensor(list(product((0.0, 1.0), repeat=units)))


def log_joint(program: RBM) -> Tensor:
    """log p(v, h) but for a constant, of all states [32, 8], by the energy's definition."""
    visible, hidden = states(5), states(3)
    ties = torch.einsum("vi,ij,hj->vh", visible, program.weight, hidden)
    return ties + (visible @ program.visible_bias)[:, None] + hidden @ program.hidden_bias


def batch(samples: int, seed: int = 1) -> dict[str, Tensor]:
    image = (torch.rand(samples, 1, 1, 5, generator=torch.Generator().manual_seed(seed)) < 0.6).float()
    return {"image": image, "key": keys(0, 0, torch.arange(samples))}


@pytest.mark.parametrize("preset", PRESETS)
def test_the_record_is_that_of_the_built_model(preset: str) -> None:
    check_record("rbm", preset)


@pytest.mark.parametrize(
    ("sizes", "message"), [({"chain": 0}, "chain=0"), ({"threshold": 1.0}, "threshold=1.0 is not")]
)
def test_impossible_sizes_are_refused(sizes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RBMConfig(**sizes)


def test_the_free_energy_sums_over_all_hidden_states() -> None:
    program = built()
    torch.testing.assert_close(program.free_energy(states(5)), -log_joint(program).logsumexp(1))


def test_the_pseudo_likelihood_is_that_of_the_exact_probabilities() -> None:
    program, visible = built(), states(5)
    probability = log_joint(program).logsumexp(1).softmax(0)
    expected = torch.zeros(32)
    for unit in range(5):
        turned = torch.arange(32) ^ (1 << (4 - unit))  # the place of the state with this unit turned
        expected += (probability / (probability + probability[turned])).log()
    torch.testing.assert_close(program.pseudo_likelihood(visible), expected.detach())


def test_the_gradient_is_that_of_contrastive_divergence() -> None:
    """Statistics of the data less those of the chain's ends."""
    program, given = built(), batch(16)
    data = given["image"].flatten(1)
    model = program.chain(data, given["key"])
    assert not torch.equal(model, data)
    program(given)["loss"][0].backward()
    positive, negative = (torch.sigmoid(v @ program.weight + program.hidden_bias).detach() for v in (data, model))
    torch.testing.assert_close(program.weight.grad, -(data.T @ positive - model.T @ negative))
    torch.testing.assert_close(program.visible_bias.grad, -(data - model).sum(0))
    torch.testing.assert_close(program.hidden_bias.grad, -(positive - negative).sum(0))


def test_a_long_chain_follows_the_likelihood() -> None:
    """CD-k's mean over many chains is the gradient of -log p(data), to within its own deviation."""
    program, samples = built(RBMConfig(visible=5, hidden=3, chain=40)), 20_000
    given = {"image": batch(8)["image"].repeat(samples // 8, 1, 1, 1), "key": keys(0, 0, torch.arange(samples))}
    likelihood = (program.free_energy(given["image"].flatten(1)) + log_joint(program).logsumexp((0, 1))).mean()
    exact = torch.autograd.grad(likelihood, list(program.parameters()))
    terms = program(given)
    found = torch.autograd.grad(terms["loss"][0] / samples, list(program.parameters()))
    for ours, expected in zip(found, exact, strict=True):
        assert (ours - expected).abs().max() < 5 * 0.5 * samples**-0.5  # a statistic in [0, 1] deviates by at most 0.5
    short = built()
    away = torch.autograd.grad(short(given)["loss"][0] / samples, list(short.parameters()))
    assert max((ours - expected).abs().max() for ours, expected in zip(away, exact, strict=True)) > 0.05


def test_a_step_of_the_chain_keeps_the_exact_distribution() -> None:
    program, samples = built(), 40_000
    probability = log_joint(program).logsumexp(1).softmax(0).detach()
    counts = (probability * samples).round().long()
    visible = states(5).repeat_interleave(counts, 0)
    after = program.chain(visible, keys(0, 0, torch.arange(len(visible))))
    place = (after.long() * torch.tensor([16, 8, 4, 2, 1])).sum(1)
    found = torch.bincount(place, minlength=32) / len(visible)
    assert ((found - probability).abs() < 5 * (probability / samples).sqrt() + 1e-3).all()


def independent() -> float:
    """log p of held-out digits in nats a sample, each pixel by how often it is on in training."""
    train = load()
    assert train.held_out is not None
    on, held_out = ((side.arrays["image"] > 0.5).reshape(len(side), -1) for side in (train, train.held_out))
    p = (on.sum(0) + 1) / (len(on) + 2)
    return float(np.where(held_out, np.log(p), np.log(1 - p)).sum(1).mean())


def test_it_learns_how_pixels_go_together(ranks: Callable[..., list[Any]]) -> None:
    optimizer = {"lr": 1e-2, "weight_decay": 0.0}
    (found,) = ranks(learn, 1, deadline=120, name="rbm", steps=300, batch=64, batches=5, optimizer=optimizer)
    assert found["held_out"]["pseudo_likelihood"] > independent() + 3
    assert found["held_out"]["reconstruction"] < -independent() - 5


def test_a_layout_never_changes_the_result(ranks: Callable[..., list[Any]]) -> None:
    check_differences(ranks(differences, 2, name="rbm", strategies=["ddp", "zero3", "tensor2"])[0])
