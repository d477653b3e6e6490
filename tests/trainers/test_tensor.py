"""Split layers equal whole ones: to the gradient of a gradient, with split tokens, with a split vocabulary."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from communication import communication
from shardwright.jobs.verify import verify_each
from shardwright.models.catalog import configure, find
from shardwright.models.entry import Entry, TensorPlan
from shardwright.models.layers import split_cross_entropy
from shardwright.trainers import parallelize
from shardwright.trainers.layout import Layout, parse_strategy
from shardwright.trainers.legal import refusal
from shardwright.trainers.mesh import Mesh, build_mesh
from shardwright.trainers.tensor import split_layers, split_tensors
from shardwright.trainers.world import Worker
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

TOLERANCE = 1e-5


class Layer(nn.Module):
    """Two linears around a smooth function."""

    def __init__(self) -> None:
        super().__init__()
        self.expand, self.contract = nn.Linear(6, 8), nn.Linear(8, 6)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.contract(torch.tanh(self.expand(x)))
        return result

    def example(self) -> Tensor:
        return torch.randn(3, 6)


class Convolution(nn.Module):
    """Two convolutions around a smooth function."""

    def __init__(self) -> None:
        super().__init__()
        self.expand = nn.Conv2d(2, 8, 3, stride=2, padding=1)
        self.contract = nn.Conv2d(8, 4, 3, dilation=2, padding="same")

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.contract(torch.tanh(self.expand(x)))
        return result

    def example(self) -> Tensor:
        return torch.randn(3, 2, 8, 8)


LAYERS = {layer.__name__: layer for layer in (Layer, Convolution)}


def penalised(layer: nn.Module, x: Tensor) -> Tensor:
    """A loss with a penalty on its gradient by the input, as WGAN-GP has it."""
    x = x.clone().requires_grad_()
    loss = layer(x).square().sum()
    (slope,) = torch.autograd.grad(loss, x, create_graph=True)
    return loss + slope.square().sum()


def tensor_mesh(worker: Worker) -> tuple[Mesh, Any]:
    mesh = build_mesh(Layout(tensor=2), worker.rank, worker.device)
    return mesh, mesh.axis("tensor")


def gradients(worker: Worker, layer: str, inputs: list[str]) -> dict[str, float]:
    """Largest differences of the split layer's loss and gradients from the whole one's."""
    torch.manual_seed(0)
    whole, split = LAYERS[layer](), LAYERS[layer]()
    x = whole.example()
    split.load_state_dict(whole.state_dict())
    mesh, axis = tensor_mesh(worker)
    plan = TensorPlan(("layer.expand",), ("layer.contract",), tuple(inputs))
    split_layers(nn.ModuleDict({"layer": split}), plan, axis, mesh.axes)
    assert isinstance(split.expand.weight, DTensor) and isinstance(split.contract.weight, DTensor)
    losses = [penalised(whole, x), penalised(split, x)]
    for loss in losses:
        loss.backward()
    found = {"loss": ((losses[0] - losses[1]) / losses[0]).abs().item()}
    for (name, a), (_, b) in zip(whole.named_parameters(), split.named_parameters(), strict=True):
        assert a.grad is not None and b.grad is not None
        gathered = b.grad.full_tensor() if isinstance(b.grad, DTensor) else b.grad
        found[name] = ((a.grad - gathered).abs().max() / a.grad.abs().max()).item()
    return found


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("inputs", [[], ["layer"]])
def test_a_gradient_of_a_gradient_is_right(ranks: Callable[..., list[Any]], layer: str, inputs: list[str]) -> None:
    for found in ranks(gradients, 2, layer=layer, inputs=inputs):
        assert len(found) == 5
        assert all(value < 1e-5 for value in found.values()), found


def refused(worker: Worker, columns: list[str], own: str = "") -> str:
    mesh, axis = tensor_mesh(worker)
    grouped = nn.Conv1d(4, 4, 3, groups=2)
    program = nn.ModuleDict({"odd": nn.Linear(4, 3), "norm": nn.LayerNorm(4), "grouped": grouped})
    try:
        split_layers(program, TensorPlan(tuple(columns), (), own={own: 0} if own else {}), axis, mesh.axes)
    except ValueError as error:
        return str(error)
    return ""


def test_what_cannot_be_split_is_said(ranks: Callable[..., list[Any]]) -> None:
    assert ranks(refused, 2, columns=["odd"])[0] == "tensor=2 does not divide the 3 features of odd"
    assert "norm, which is LayerNorm, not nn.Linear" in ranks(refused, 2, columns=["norm"])[0]
    assert "of one group" in ranks(refused, 2, columns=["grouped"])[0]
    assert "does not divide dim 0 of odd.weight, (3, 4)" in ranks(refused, 2, columns=[], own="odd.weight")[0]


def tied(worker: Worker) -> list[Any]:
    """A weight under two names, one that the degree does not divide, and a buffer."""
    mesh, axis = tensor_mesh(worker)
    program = nn.ModuleDict(
        {"a": nn.Linear(2, 4, bias=False), "b": nn.Linear(2, 4, bias=False), "odd": nn.Linear(2, 3)}
    )
    program["b"].weight = program["a"].weight
    program["a"].register_buffer("mean", torch.arange(4.0))
    split_layers(program, TensorPlan(vocabulary=("*.weight",)), axis, mesh.axes)
    made = split_tensors(program, ("a.mean",), axis, 0)
    mean = program["a"].mean
    assert isinstance(mean, DTensor)
    same = program["a"].weight is program["b"].weight and isinstance(program["b"].weight, DTensor)
    return [same, isinstance(program["odd"].weight, DTensor), mean.to_local().tolist(), len(made)]


def test_a_tied_weight_stays_one_and_an_odd_vocabulary_whole(ranks: Callable[..., list[Any]]) -> None:
    found = ranks(tied, 2)
    assert found == [[True, False, [0.0, 1.0], 0], [True, False, [2.0, 3.0], 0]]


CONFIG = {"vocab_size": 64, "context": 16, "width": 32, "layers": 2}
GPT2 = {**CONFIG, "dropout": 0.1}
MODELS = {
    "gpt2": GPT2,
    "gpt2 with an odd vocabulary": {**GPT2, "vocab_size": 63},
    "llama": {**CONFIG, "heads": 4, "kv_heads": 2, "hidden": 40},
    "llama, tied": {**CONFIG, "heads": 4, "kv_heads": 2, "hidden": 40, "tied": True},
}
STRATEGIES = {
    2: ["tensor2", "tensor2_sequence"],
    4: ["zero3_tensor2_sequence", "ddp_tensor2_sequence", "tensor2_sequence_pipeline2"],
}


def differences(
    worker: Worker, model: str, strategies: list[str], fault: str = ""
) -> dict[str, dict[str, float]] | None:
    if fault:
        FAULTS[fault]()
    return verify_each(worker, model.replace(",", " ").split()[0], "tiny", MODELS[model], "", strategies, {})


@pytest.mark.parametrize("world", STRATEGIES)
@pytest.mark.parametrize("model", MODELS)
def test_split_layers_give_the_result_of_one_process(ranks: Callable[..., list[Any]], model: str, world: int) -> None:
    found = ranks(differences, world, deadline=120, model=model, strategies=STRATEGIES[world])[0]
    assert found.keys() == set(STRATEGIES[world])
    for strategy, values in found.items():
        assert all(value <= TOLERANCE for value in values.values()), (strategy, values)


def partial_norms() -> None:
    """With split tokens, a norm keeps the gradient of its own rank's tokens."""
    parallelize._token_sums = lambda *_: ()


def forgotten_bias() -> None:
    """The biases behind split layers are left out of that sum."""
    original = parallelize.partial_names
    parallelize.partial_names = lambda *args: {name for name in original(*args) if not name.endswith("output.bias")}


def own_vocabulary() -> None:
    """A rank's softmax is over its own part of the vocabulary."""
    split_cross_entropy.leave = lambda x, axis: x


FAULTS = {f.__name__: f for f in (partial_norms, forgotten_bias, own_vocabulary)}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_found(ranks: Callable[..., list[Any]], fault: str) -> None:
    (found,) = ranks(differences, 2, model="gpt2", strategies=["tensor2_sequence"], fault=fault)[0].values()
    assert any(value > TOLERANCE for value in found.values()), found


def test_split_tokens_need_a_plan_and_a_degree_that_divides_them() -> None:
    entry, config = find("gpt2"), configure(find("gpt2"), "tiny")
    assert refusal(entry, config, parse_strategy("tensor2_sequence")) == ""
    bare = Entry(build="x:y", name="bare", tensor=lambda _: TensorPlan(("a",), ("b",)), divides={"tensor": "heads"})
    assert refusal(bare, config, parse_strategy("tensor2_sequence")) == (
        "sequence: bare names no parameters between its split layers (TensorPlan.between), "
        "so every rank of the tensor axis holds all tokens there"
    )
    layout = Layout(tensor=4, context=2, sequence=True)
    assert layout.refusal(12) == "sequence splits the 6 tokens of a rank, which tensor=4 does not divide"
    assert layout.refusal(16) == "" and layout.tokens(16) == 2


DEPTH, SAMPLES, TOKENS, WIDTH, NUMBER = 2, 2, 16, 32, 4
STREAM, LOSS = (
    SAMPLES * TOKENS * WIDTH * NUMBER,
    3 * SAMPLES * TOKENS * NUMBER,
)  # bytes; the loss sends 3 numbers a token
REGIONS = 2 * DEPTH + 1  # attention and MLP of each block; the embedding ends one, the head begins one


def asked(strategy: str) -> dict[str, Any]:
    return {"model": "llama", "config": MODELS["llama"], "strategy": strategy, "tokens": TOKENS, "micro_batches": 1}


def test_each_region_sums_the_residual_stream_once_each_way(ranks: Callable[..., list[Any]]) -> None:
    """Shoeybi et al. 2019: two all-reduces a block in forward and two in backward; one more for each end."""
    for found in ranks(communication, 2, **asked("tensor2")):
        assert found == {"all-reduce": [2 * REGIONS + 2, 2 * REGIONS * STREAM + LOSS]}


def test_split_tokens_move_as_many_bytes_as_the_sums(ranks: Callable[..., list[Any]]) -> None:
    """Korthikanti et al. 2022: each all-reduce becomes an all-gather and a reduce-scatter, its two halves."""
    for found in ranks(communication, 2, **asked("tensor2_sequence")):
        norms = (2 * DEPTH + 1) * WIDTH * NUMBER
        assert found["all-gather"] == [2 * REGIONS, 2 * REGIONS * STREAM // 2]
        assert found["reduce-scatter"] == [2 * REGIONS, 2 * REGIONS * STREAM]
        assert found["all-reduce"] == [2 + 1, LOSS + norms]
        assert len(found) == 3
