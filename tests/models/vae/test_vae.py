"""Is the variational autoencoder's bound the formula's, does it compress better than PCA, and does it split?"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from learning import train
from records import check_record, counted_flops
from shardwright.jobs.verify import verify
from shardwright.models.draw import keys, normal
from shardwright.models.vae.entry import PRESETS, VAEConfig, flops
from shardwright.models.vae.model import VAE, divergence
from shardwright.trainers.layout import parse_strategy
from shardwright.trainers.world import Worker
from torch import Tensor, distributions

CONFIG = VAEConfig(inputs=6, hidden=8, code=3, beta=2.0)
Rows = Any  # of numpy


def batch(samples: int = 5) -> dict[str, Tensor]:
    pixels = torch.linspace(0, 9, samples * 6).sin().abs().view(samples, 1, 2, 3)
    return {"image": pixels, "key": keys(0, 0, torch.arange(samples))}


def built(config: VAEConfig = CONFIG) -> VAE:
    torch.manual_seed(0)
    return VAE(config)


@pytest.mark.parametrize("preset", PRESETS)
def test_the_record_is_that_of_the_built_model(preset: str) -> None:
    check_record("vae", preset)


def linear(program: VAE, path: str, x: Rows) -> Rows:
    layer = program.get_submodule(path)
    return x @ layer.weight.detach().double().numpy().T + layer.bias.detach().double().numpy()


@pytest.mark.parametrize("pairs", [0, 1])
def test_the_bound_is_that_of_the_formulas(pairs: int) -> None:
    program = built(VAEConfig(inputs=6, hidden=8, code=3, beta=2.0, pairs=pairs))
    data = batch()
    pixels = x = data["image"].flatten(1).double().numpy()
    for network in ("encoder", "decoder"):
        for index in range(pairs):
            for layer in ("first", "second"):
                x = np.tanh(linear(program, f"{network}.{index}.{layer}", x))
        if network == "encoder":
            hidden = np.tanh(linear(program, "posterior.expand", x))
            mean, log_variance = (linear(program, f"posterior.{name}", hidden) for name in ("mean", "log_variance"))
            noise = normal(data["key"], "posterior", (3,)).double().numpy()
            x = mean + np.exp(log_variance / 2) * noise
    logits = linear(program, "likelihood.contract", np.tanh(linear(program, "likelihood.expand", x)))
    likely = 1 / (1 + np.exp(-logits))
    reconstruction = -(pixels * np.log(likely) + (1 - pixels) * np.log(1 - likely)).sum()
    apart = -0.5 * (1 + log_variance - mean**2 - np.exp(log_variance)).sum()  # appendix B
    for mode in (True, False):
        terms = program.train(mode)(data)
        found = {name: value.item() for name, (value, _) in terms.items()}
        assert found == pytest.approx(
            {"reconstruction": reconstruction, "divergence": apart, "loss": reconstruction + 2.0 * apart}, rel=1e-5
        )
        assert all(count == 5 for _, count in terms.values())


def test_the_divergence_is_that_of_torch_distributions() -> None:
    mean, log_variance = torch.randn(7, 3), torch.randn(7, 3)
    posterior = distributions.Normal(mean, (0.5 * log_variance).exp())
    prior = distributions.Normal(torch.zeros(3), torch.ones(3))
    expected = distributions.kl_divergence(posterior, prior).sum(-1)
    assert torch.allclose(divergence(mean, log_variance), expected, atol=1e-5)


def test_a_code_is_drawn_from_its_posterior() -> None:
    program = built()
    one = batch(1)
    many = {"image": one["image"].expand(20000, 1, 2, 3), "key": keys(0, 0, torch.arange(20000))}
    hidden = many["image"].flatten(1)
    mean, log_variance = program.posterior.moments(hidden[:1])
    codes, _ = program.posterior(hidden, many["key"])
    assert torch.allclose(codes.mean(0), mean[0], atol=0.03)
    assert torch.allclose(codes.var(0), log_variance[0].exp(), rtol=0.05)


def test_flops_are_those_that_torch_counts() -> None:
    data = {"image": torch.zeros(1, 784), "key": torch.zeros(1, 2, dtype=torch.int32)}
    assert flops(PRESETS["mnist"], 1) == counted_flops("vae", "mnist", data)


@pytest.mark.parametrize(("sizes", "message"), [({"code": 0}, "code=0 is not"), ({"beta": -1.0}, "beta=-1.0 is neg")])
def test_impossible_sizes_are_refused(sizes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        VAEConfig(**sizes)


def errors(worker: Worker) -> dict[str, float]:
    """Mean squared error of a held-out pixel, by the autoencoder and by as many principal components."""
    made = train(worker, "vae", steps=800, batch=64, config={"code": 2, "pairs": 0}, optimizer={"lr": 1e-2})
    training, held_out = (
        torch.from_numpy(side.arrays["image"]).flatten(1) for side in (made.source.train, made.source.train.held_out)
    )
    with torch.no_grad():
        found = made.sharded.program.eval().reconstruct(held_out)
    mean = training.mean(0)
    components = torch.linalg.svd(training - mean, full_matrices=False).Vh[:2]
    linear = mean + (held_out - mean) @ components.T @ components
    return {"ours": float((found - held_out).square().mean()), "pca": float((linear - held_out).square().mean())}


def test_it_compresses_held_out_digits_better_than_pca(ranks: Callable[..., list[Any]]) -> None:
    found = ranks(errors, 1, deadline=120)[0]
    assert found["ours"] < 0.9 * found["pca"], found


def differences(worker: Worker, strategy: str) -> dict[str, float] | None:
    return verify(worker, "vae", "tiny", {}, "", strategy, {})


@pytest.mark.parametrize("strategy", ["zero3", "tensor2", "pipeline2"])
def test_a_layout_never_changes_the_result(ranks: Callable[..., list[Any]], strategy: str) -> None:
    found = ranks(differences, parse_strategy(strategy).world_size, strategy=strategy)[0]
    assert all(value <= 1e-5 for value in found.values()), found
