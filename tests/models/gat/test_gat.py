"""Is the graph attention network the paper's, does it learn who went where, and does it split?"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from entries import check_differences, differences
from learning import learn
from records import check_record, counted_flops
from shardwright.models.draw import dropout, keys
from shardwright.models.gat.entry import PRESETS, GATConfig, flops, parameters
from shardwright.models.gat.model import GAT
from torch import Tensor, nn
from torch.nn import functional as F

CONFIG = GATConfig(nodes=9, features=5, classes=3, width=4, heads=2, output_heads=2, layers=3, dropout=0.4)


def built() -> GAT:
    torch.manual_seed(0)
    program = GAT(CONFIG)
    for layer in program.layers.values():
        nn.init.normal_(layer.bias)
    return program


def batch() -> dict[str, Tensor]:
    """Two graphs whose edges have a direction; the last node of the first graph has no neighbour."""
    random = torch.Generator().manual_seed(1)
    adjacency = torch.rand(2, 9, 9, generator=random) < 0.3
    adjacency[0, 8], adjacency[0, :, 8] = False, False
    labels = torch.randint(3, (2, 9), generator=random)
    labels[:, ::2] = -100
    nodes = torch.randn(2, 9, 5, generator=random)
    return {"nodes": nodes, "adjacency": adjacency, "labels": labels, "key": keys(0, 0, torch.arange(2))}


@pytest.mark.parametrize("preset", PRESETS)
def test_the_record_is_that_of_the_built_model(preset: str) -> None:
    check_record("gat", preset)


def test_presets_have_the_papers_sizes() -> None:
    assert parameters(PRESETS["cora"]) == 64 * (1433 + 3) + 7 * (64 + 3)  # weights, two vectors and a bias a layer
    assert (PRESETS["cora"].heads, PRESETS["cora"].width, PRESETS["cora"].dropout) == (8, 8, 0.6)


def test_flops_are_those_that_torch_counts() -> None:
    graph = {"nodes": torch.zeros(1, 34, 34), "adjacency": torch.zeros(1, 34, 34, dtype=torch.bool)}
    assert flops(PRESETS["tiny"], 0) == counted_flops("gat", "tiny", graph)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [({"heads": 0}, "heads=0 is not positive"), ({"layers": 1}, "no hidden layer"), ({"dropout": 1.0}, "dropout=1.0")],
)
def test_impossible_sizes_are_refused(sizes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GATConfig(**sizes)


def oracle(program: GAT) -> nn.ModuleList:
    """torch_geometric's layers with the weights of ours."""
    from torch_geometric.nn import GATConv

    made = nn.ModuleList()
    for layer in program.layers.values():
        inputs = layer.projection.in_features
        theirs = GATConv(inputs, layer.width, layer.heads, concat=not layer.last, dropout=0.0)
        with torch.no_grad():
            theirs.lin.weight.copy_(layer.projection.weight)
            theirs.att_src.copy_(layer.source[None])
            theirs.att_dst.copy_(layer.target[None])
            theirs.bias.copy_(layer.bias)
        made.append(theirs)
    return made


def test_it_is_torch_geometrics_gatconv() -> None:
    """Outputs and gradients, in evaluation mode, where nothing is dropped."""
    program, given = built().eval(), batch()
    theirs, found = oracle(program), []
    for nodes, adjacency in zip(given["nodes"], given["adjacency"], strict=True):
        edges = adjacency.nonzero().T.flip(0)  # theirs go from a source to who takes from it
        x = nodes
        for layer in theirs[:-1]:
            x = F.elu(layer(x, edges))
        found.append(theirs[-1](x, edges))
    logits = torch.stack(found)
    ours = program({name: x for name, x in given.items() if name != "labels"})["logits"]
    torch.testing.assert_close(ours, logits, atol=1e-5, rtol=1e-5)
    loss, count = program(given)["loss"]
    expected = F.cross_entropy(logits.flatten(0, 1), given["labels"].flatten(), reduction="sum")
    torch.testing.assert_close(loss, expected)
    assert count == (given["labels"] >= 0).sum()
    loss.backward()
    expected.backward()
    for layer, their in zip(program.layers.values(), theirs, strict=True):
        torch.testing.assert_close(layer.projection.weight.grad, their.lin.weight.grad, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(layer.source.grad, their.att_src.grad[0], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(layer.bias.grad, their.bias.grad, atol=1e-5, rtol=1e-4)


def test_training_drops_inputs_and_attention() -> None:
    """The paper's formula with the drawn masks, for the first layer."""
    program, given = built().train(), batch()
    layer, key = program.layers["0"], given["key"]
    x = dropout(given["nodes"], 0.4, key, "layers.0.input")
    values = (x @ layer.projection.weight.T).view(2, 9, 2, 4)
    scores = torch.empty(2, 2, 9, 9)
    for head in range(2):
        asked, said = values[:, :, head] @ layer.target[head], values[:, :, head] @ layer.source[head]
        scores[:, head] = F.leaky_relu(asked[:, :, None] + said[:, None, :], 0.2)
    edges = given["adjacency"] | torch.eye(9, dtype=torch.bool)
    weights = scores.exp() * edges[:, None]
    weights = dropout(weights / weights.sum(-1, keepdim=True), 0.4, key, "layers.0.weights")
    mixed = torch.einsum("bhij,bjhd->bihd", weights, values).flatten(2)
    torch.testing.assert_close(layer(given["nodes"], edges, key), F.elu(mixed + layer.bias))


def test_it_learns_who_went_where(ranks: Callable[..., list[Any]]) -> None:
    """Of the members that are not known, half went to either club."""
    (found,) = ranks(learn, 1, deadline=120, name="gat", steps=150, batch=1, optimizer={"lr": 5e-3})
    assert found["held_out"]["accuracy"] > 0.75
    assert found["last"]["loss"] < 0.5 * found["first"]["loss"]


def test_a_layout_never_changes_the_result(ranks: Callable[..., list[Any]]) -> None:
    check_differences(ranks(differences, 2, name="gat", strategies=["zero3", "tensor2", "pipeline2"])[0])
