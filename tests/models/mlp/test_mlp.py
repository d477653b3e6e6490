"""Is the multilayer perceptron what torch.nn makes of the same layers, does it learn, and does it split?"""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from learning import learn
from records import check_record, counted_flops
from shardwright.jobs.verify import verify
from shardwright.models.catalog import legal
from shardwright.models.draw import keys
from shardwright.models.mlp.entry import ENTRY, PRESETS, MLPConfig, flops
from shardwright.models.mlp.model import MLP
from shardwright.trainers.layout import parse_strategy
from shardwright.trainers.world import Worker
from torch import Tensor, nn
from torch.nn import functional as F

LAYERS = {"relu": nn.ReLU, "tanh": nn.Tanh, "sigmoid": nn.Sigmoid, "gelu": nn.GELU}


def batch(samples: int = 5, inputs: int = 6, classes: int = 4) -> dict[str, Tensor]:
    index = torch.arange(samples)
    return {
        "image": torch.linspace(-1, 1, samples * inputs).sin().view(samples, inputs),
        "label": index % classes,
        "key": keys(0, 0, index),
    }


def oracle(program: MLP, config: MLPConfig) -> nn.Sequential:
    """The same layers in one nn.Sequential, with copied weights."""
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(config.widths):
        layers += [nn.Linear(inputs, outputs), LAYERS[config.activation]()]
    made = nn.Sequential(*layers[:-1])
    with torch.no_grad():
        for theirs, ours in zip(made.parameters(), program.parameters(), strict=True):
            theirs.copy_(ours)
    return made


@pytest.mark.parametrize("preset", PRESETS)
def test_the_record_is_that_of_the_built_model(preset: str) -> None:
    check_record("mlp", preset)


@pytest.mark.parametrize("activation", LAYERS)
@pytest.mark.parametrize("hidden", [(8,), (8, 12), (8, 12, 4)])
def test_it_is_torchs_sequence_of_layers(activation: Any, hidden: tuple[int, ...]) -> None:
    config = MLPConfig(inputs=6, hidden=hidden, classes=4, activation=activation)
    program = MLP(config)
    theirs, data = oracle(program, config), batch()
    for mode in (True, False):
        loss, count = program.train(mode)(data)["loss"]
        logits = theirs.train(mode)(data["image"])
        expected = F.cross_entropy(logits, data["label"])
        assert torch.allclose(loss / count, expected, atol=1e-6)
    (loss / count).backward()
    expected.backward()
    for one, other in zip(program.parameters(), theirs.parameters(), strict=True):
        assert torch.allclose(one.grad, other.grad, atol=1e-6)
    found = program({"image": data["image"]})["logits"]
    assert torch.allclose(found, logits, atol=1e-6)
    right, _ = program(data)["accuracy"]
    assert right == (found.argmax(-1) == data["label"]).sum()


def test_dropout_is_drawn_for_each_hidden_layer() -> None:
    config = MLPConfig(inputs=6, hidden=(400, 400), classes=4, dropout=0.25)
    seen = {}
    program = MLP(config)
    program.pairs["0"].second.register_forward_pre_hook(lambda _, inputs: seen.update(first=inputs[0]))
    program.pairs["1"].first.register_forward_pre_hook(lambda _, inputs: seen.update(second=inputs[0]))
    program.eval()(batch())
    whole = dict(seen)
    program.train()(batch())
    kept = seen["first"][whole["first"] > 0] > 0
    assert kept.float().mean() == pytest.approx(0.75, abs=0.05)
    assert not torch.equal(seen["first"] > 0, seen["second"] > 0)


def test_flops_are_those_that_torch_counts() -> None:
    data = {"image": torch.zeros(1, 784)}
    assert flops(PRESETS["mnist"], 1) == counted_flops("mlp", "mnist", data)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"hidden": ()}, "names no layer"),
        ({"hidden": (8, 0)}, "must be positive"),
        ({"dropout": 1.0}, r"dropout=1.0 is not in \[0, 1\)"),
    ],
)
def test_impossible_sizes_are_refused(sizes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MLPConfig(**sizes)


def test_only_widths_within_pairs_are_split() -> None:
    config = MLPConfig(inputs=7, hidden=(6, 5, 4), classes=3)
    assert config.pairs == ((7, 6, 5), (5, 4, 3))
    assert legal(ENTRY, config)["tensor"] == (1, 2) and legal(ENTRY, config)["pipeline"] == (1, 2)


@pytest.mark.parametrize(
    ("preset", "data", "floor"), [("tiny", "digits", 0.9), ("iris", "iris", 0.9)], ids=["digits", "iris"]
)
def test_it_learns(ranks: Callable[..., list[Any]], preset: str, data: str, floor: float) -> None:
    learning = {"data": {"name": data}, "optimizer": {"lr": 1e-2}}
    found = ranks(learn, 1, deadline=120, name="mlp", steps=300, preset=preset, batches=16, **learning)[0]
    assert found["held_out"]["accuracy"] > floor, found


def differences(worker: Worker, strategy: str) -> dict[str, float] | None:
    return verify(worker, "mlp", "tiny", {}, "", strategy, {})


@pytest.mark.parametrize("strategy", ["tensor2", "pipeline2"])
def test_a_layout_never_changes_the_result(ranks: Callable[..., list[Any]], strategy: str) -> None:
    found = ranks(differences, parse_strategy(strategy).world_size, strategy=strategy)[0]
    assert all(value <= 1e-5 for value in found.values()), found
