"""Does the perceptron follow Rosenblatt's rule, step by step, through the trainer's step?"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from learning import learn
from shardwright.cluster.verify import verify
from shardwright.models.perceptron.entry import PRESETS, PerceptronConfig, parameters, shapes
from shardwright.models.perceptron.model import Perceptron
from shardwright.trainers.data.samples.shipped import load_shipped
from shardwright.trainers.world import Worker
from sklearn.linear_model import Perceptron as Oracle


@pytest.mark.parametrize("preset", PRESETS)
def test_counts_are_those_of_the_built_model(preset: str) -> None:
    with torch.device("meta"):
        program = Perceptron(PRESETS[preset])
    assert {name: tuple(p.shape) for name, p in program.named_parameters()} == shapes(PRESETS[preset])
    assert parameters(PRESETS[preset]) == sum(p.numel() for p in program.parameters())


@pytest.mark.parametrize(
    ("sizes", "message"), [({"inputs": 0}, "inputs=0"), ({"positive": -1}, "positive=-1"), ({"rate": 0.0}, "rate=0.0")]
)
def test_impossible_sizes_are_refused(sizes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PerceptronConfig(**sizes)


@pytest.mark.parametrize(("dataset", "positive"), [("iris", 1), ("breast_cancer", 1)])
@pytest.mark.parametrize("batch", [1, 7])
def test_every_correction_is_scikit_learns(dataset: str, positive: int, batch: int) -> None:
    rows = load_shipped(dataset).fetch(np.arange(120))
    x, y = np.asarray(rows["features"]), np.where(np.asarray(rows["label"]) == positive, 1, -1)
    program, oracle = Perceptron(PerceptronConfig(x.shape[1], positive, rate=0.5)), Oracle(shuffle=False, eta0=0.5)
    moved = 0
    for first in range(0, 120, batch):
        part = slice(first, first + batch)
        answer = program({"features": torch.from_numpy(x[part]), "label": torch.tensor(rows["label"][part])})
        for name, change in answer["update"].items():
            getattr(program, name).add_(change)
        moved += bool(answer["update"]["bias"].any())
        oracle.partial_fit(x[part], y[part], classes=[-1, 1])
        np.testing.assert_allclose(program.weight.numpy(), oracle.coef_[0], rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(program.bias.numpy(), oracle.intercept_, rtol=1e-5, atol=1e-5)
    assert moved > 2


def test_evaluation_changes_nothing() -> None:
    program = Perceptron(PRESETS["tiny"]).eval()
    answer = program({"features": torch.randn(3, 4), "label": torch.tensor([0, 1, 2])})
    assert answer.keys() == {"loss", "accuracy"}
    assert not program.weight.any()


def accuracy(worker: Worker, dataset: str, preset: str) -> float:
    options = {"preset": preset, "data": {"name": dataset}, "optimizer": {"lr": 123.0}}
    found = learn(worker, "perceptron", 30, batch=40, **options)
    return float(found["held_out"]["accuracy"])


@pytest.mark.parametrize(("dataset", "preset", "floor"), [("iris", "tiny", 0.95), ("breast_cancer",) * 2 + (0.8,)])
def test_it_learns(ranks: Callable[..., list[Any]], dataset: str, preset: str, floor: float) -> None:
    """The majority classes guess 0.67 and 0.63. The step's size is the rule's own, not the optimizer's."""
    assert ranks(accuracy, 1, dataset=dataset, preset=preset)[0] > floor


def test_no_layout_splits_it() -> None:
    verified = verify("perceptron")
    assert verified.strategies == () or all(one.refused for one in verified.strategies)
    for strategy in ("ddp", "zero3", "tensor2", "pipeline2"):
        with pytest.raises(ValueError, match="corrects the weights sample by sample"):
            verify("perceptron", [strategy])
