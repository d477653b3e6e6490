"""Is MAML's gradient that of the whole adaptation, does it adapt to digits it never met, and does it split?"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from entries import check_differences, differences
from learning import learn
from records import check_record
from shardwright.models.maml.entry import PRESETS, MAMLConfig, parameters
from shardwright.models.maml.model import MAML
from shardwright.trainers.data.samples.digits_few_shot import load
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional as F

CONVOLUTIONS = MAMLConfig(side=8, widths=(4, 6, 4), ways=3, steps=2, rate=0.1)
DENSE = MAMLConfig(side=8, widths=(10, 6), convolutions=False, ways=3, steps=3, rate=0.1)
PER_LAYER = ("weight", "scale", "shift")


def built(config: MAMLConfig) -> MAML:
    torch.manual_seed(0)
    program = MAML(config)
    for layer in program.layers:
        nn.init.normal_(layer.shift)
    return program


def batch(tasks: int = 4) -> dict[str, Tensor]:
    """Tasks of three classes with two support images and four queries each."""
    random = torch.Generator().manual_seed(1)
    found = {}
    for side, count in (("support", 6), ("query", 12)):
        found[f"{side}_images"] = torch.rand(tasks, count, 1, 8, 8, generator=random)
        found[f"{side}_labels"] = torch.arange(3).repeat(count // 3).expand(tasks, -1)
    return found


class Norm(nn.Module):
    """nn.BatchNorm in training, by formula: the gradient of torch 2.13's own one's gradient is wrong inside vmap."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        dims, shape = [0, *range(2, x.ndim)], (-1, *[1] * (x.ndim - 2))
        centred = x - x.mean(dims, keepdim=True)
        x = centred / (centred.square().mean(dims, keepdim=True) + 1e-5).sqrt()
        return x * self.weight.view(shape) + self.bias.view(shape)


class Plain(nn.Module):
    """The classifier as torch's own layers would have it, of one task."""

    def __init__(self, config: MAMLConfig) -> None:
        super().__init__()
        self.convolutions = config.convolutions
        for index, (before, after) in enumerate(config.layers):
            layer = nn.Conv2d(before, after, 3, padding=1, bias=False)
            self.add_module(f"layer{index}", layer if config.convolutions else nn.Linear(before, after, bias=False))
            self.add_module(f"norm{index}", Norm(after))
        self.head = nn.Linear(config.features, config.ways)

    def forward(self, images: Tensor) -> Tensor:
        x = images if self.convolutions else images.flatten(1)
        for index in range(sum(name.startswith("layer") for name, _ in self.named_children())):
            x = F.relu(getattr(self, f"norm{index}")(getattr(self, f"layer{index}")(x)))
            x = F.max_pool2d(x, 2) if self.convolutions else x
        result: Tensor = self.head(x.flatten(1))
        return result


def renamed(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors by the names of Plain."""
    found = {}
    for name, tensor in tensors.items():
        _, index, kind = name.split(".") if name.startswith("layers.") else ("", "", "")
        known = {"weight": f"layer{index}.weight", "scale": f"norm{index}.weight", "shift": f"norm{index}.bias"}
        found[known.get(kind, name)] = tensor
    return found


def meta_gradient(config: MAMLConfig, weights: dict[str, Tensor], given: dict[str, Tensor]) -> tuple[Tensor, Any]:
    """The objective and its gradient by torch.func, as its own tutorial on MAML has it."""
    plain = Plain(config)

    def loss(weights: dict[str, Tensor], images: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(functional_call(plain, weights, images), labels)

    def task(weights: dict[str, Tensor], *one: Tensor) -> Tensor:
        adapted = weights
        for _ in range(config.steps):
            slope = grad(loss)(adapted, *one[:2])
            slope = {name: x.detach() if config.first_order else x for name, x in slope.items()}
            adapted = {name: x - config.rate * slope[name] for name, x in adapted.items()}
        return loss(adapted, *one[2:]) * one[3].numel()

    def objective(weights: dict[str, Tensor]) -> Tensor:
        sides = [given[f"{side}_{kind}"] for side in ("support", "query") for kind in ("images", "labels")]
        return vmap(task, (None, 0, 0, 0, 0))(weights, *sides).sum()

    return objective(weights), grad(objective)(weights)


@pytest.mark.parametrize("preset", PRESETS)
def test_the_record_is_that_of_the_built_model(preset: str) -> None:
    check_record("maml", preset)


def test_presets_have_the_papers_sizes() -> None:
    convolutions, dense = PRESETS["omniglot"], PRESETS["omniglot_dense"]
    assert (convolutions.widths, convolutions.rate, convolutions.steps) == ((64,) * 4, 0.4, 1)
    assert dense.widths == (256, 128, 64, 64)
    assert parameters(convolutions) == 9 * 64 * (1 + 3 * 64) + 4 * 2 * 64 + 64 * 5 + 5


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"rate": 0.0}, "rate=0.0 is not positive"),
        ({"widths": ()}, "there must be one for each hidden layer"),
        ({"side": 8}, "4 layers halve a side of 8 more often"),
    ],
)
def test_impossible_sizes_are_refused(sizes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MAMLConfig(**sizes)


@pytest.mark.parametrize("config", [CONVOLUTIONS, DENSE], ids=["convolutions", "dense"])
@pytest.mark.parametrize("first_order", [False, True])
def test_the_gradient_is_torch_funcs(config: MAMLConfig, first_order: bool) -> None:
    config = replace(config, first_order=first_order)
    program, given = built(config), batch()
    weights = renamed({name: p.detach().clone() for name, p in program.named_parameters()})
    loss, gradient = meta_gradient(config, weights, given)
    found = program(given)["loss"]
    torch.testing.assert_close(found[0], loss)
    assert found[1] == 48
    found[0].backward()
    ours = renamed({name: p.grad for name, p in program.named_parameters()})
    largest = max(x.abs().max() for x in gradient.values())
    for name, expected in gradient.items():
        assert (ours[name] - expected).abs().max() <= 1e-5 * largest, name


def test_the_norm_is_batch_norm() -> None:
    x = torch.randn(5, 3, 4, 4)
    torch.testing.assert_close(Norm(3)(x), nn.BatchNorm2d(3)(x))


def test_the_orders_differ() -> None:
    found = []
    for first_order in (False, True):
        program = built(replace(DENSE, first_order=first_order))
        program(batch())["loss"][0].backward()
        found.append(program.layers[0].weight.grad)
    assert (found[0] - found[1]).abs().max() > 0.01 * found[0].abs().max()


def test_evaluation_adapts_too() -> None:
    program, given = built(DENSE), batch()
    expected = program(given)["loss"][0].detach()
    with torch.no_grad():
        torch.testing.assert_close(program.eval()(given)["loss"][0], expected)


def nearest() -> float:
    """Share of held-out queries that the nearest support image by pixels answers right."""
    held_out = load().held_out
    assert held_out is not None
    support, query = (torch.from_numpy(held_out.arrays[f"{side}_images"]).flatten(2) for side in ("support", "query"))
    labels = torch.from_numpy(held_out.arrays["support_labels"])
    said = labels.gather(1, torch.cdist(query, support).argmin(-1))
    return float((said == torch.from_numpy(held_out.arrays["query_labels"])).float().mean())


def test_it_adapts_to_digits_it_never_met(ranks: Callable[..., list[Any]]) -> None:
    optimizer = {"lr": 3e-3, "weight_decay": 10.0}
    (found,) = ranks(learn, 1, deadline=200, name="maml", steps=200, batch=16, batches=16, optimizer=optimizer)
    assert found["held_out"]["accuracy"] > nearest() + 0.03


def test_a_layout_never_changes_the_result(ranks: Callable[..., list[Any]]) -> None:
    check_differences(ranks(differences, 2, name="maml", strategies=["ddp", "zero3", "tensor2"])[0])


def test_convolutions_split_too(ranks: Callable[..., list[Any]]) -> None:
    config = {"widths": [4, 6, 4], "convolutions": True}
    check_differences(ranks(differences, 2, name="maml", strategies=["tensor2"], config=config)[0])
