"""Is the LSTM language model the paper's, does it carry its state, learn, and split?"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from learning import learn
from shardwright.jobs.verify import verify
from shardwright.models.draw import dropout, keys
from shardwright.models.layers.recurrent import by_gate
from shardwright.models.lstm.entry import PRESETS, LSTMConfig, parameters, shapes, units
from shardwright.models.lstm.model import LanguageModel
from shardwright.trainers.layout import parse_strategy
from shardwright.trainers.world import Worker
from torch import Tensor, nn
from torch.nn import functional as F

UNIGRAM = 3.237  # nats per byte of the standard library's sources


def built(dropout: float = 0.0) -> LanguageModel:
    torch.manual_seed(0)
    return LanguageModel(LSTMConfig(vocab_size=11, width=8, layers=2, dropout=dropout, within=0.5))


def batch(tokens: int = 6) -> dict[str, Tensor]:
    text = torch.arange(3 * (tokens + 1)).view(3, tokens + 1) * 7 % 11
    states = {f"{name}.{index}": torch.full((3, 8), 0.1 + index) for name in ("hidden", "cell") for index in range(2)}
    return {"inputs": text[:, :-1], "targets": text[:, 1:], "key": keys(0, 0, torch.arange(3)), **states}


@pytest.mark.parametrize("preset", PRESETS)
def test_counts_are_those_of_the_built_model(preset: str) -> None:
    config = PRESETS[preset]
    with torch.device("meta"):
        program = LanguageModel(config)
    assert {name: tuple(p.shape) for name, p in program.named_parameters()} == shapes(config)
    assert (
        parameters(config) == sum(p.numel() for p in program.parameters()) == sum(u.parameters for u in units(config))
    )


def test_presets_have_the_papers_sizes() -> None:
    assert parameters(PRESETS["medium"]) == pytest.approx(20e6, rel=0.02)
    assert parameters(PRESETS["large"]) == pytest.approx(66e6, rel=0.02)
    medium, large = PRESETS["medium"], PRESETS["large"]
    assert (medium.dropout, medium.within, large.dropout, large.within) == (0.5, 0.05, 0.65, 0.04)


@pytest.mark.parametrize(("sizes", "message"), [({"width": 0}, "width=0"), ({"within": 0.0}, "within=0.0 is not")])
def test_impossible_sizes_are_refused(sizes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LSTMConfig(**sizes)


class Oracle(nn.Module):
    """nn.Embedding, nn.LSTM and nn.Linear with the weights of ours."""

    def __init__(self, program: LanguageModel) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 8)
        self.lstm = nn.LSTM(8, 8, 2, batch_first=True)
        self.output = nn.Linear(8, 11)
        with torch.no_grad():
            self.embed.weight.copy_(program.embed.tokens.weight)
            self.output.weight.copy_(program.head.weight[:, :-1])
            self.output.bias.copy_(program.head.weight[:, -1])
            for index in range(2):
                cell = program.layers[str(index)].cell
                getattr(self.lstm, f"weight_ih_l{index}").copy_(by_gate(cell.input_weight))
                getattr(self.lstm, f"weight_hh_l{index}").copy_(by_gate(cell.hidden_weight))
                getattr(self.lstm, f"bias_ih_l{index}").copy_(by_gate(cell.bias))
                getattr(self.lstm, f"bias_hh_l{index}").zero_()

    def forward(self, inputs: Tensor, hidden: Tensor, cell: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        y, states = self.lstm(self.embed(inputs), (hidden, cell))
        return self.output(y), states


@pytest.mark.parametrize("training", [True, False])
def test_it_is_torchs_lstm(training: bool) -> None:
    program, given = built().train(training), batch()
    oracle = Oracle(program)
    states = [torch.stack([given[f"{name}.{index}"] for index in range(2)]) for name in ("hidden", "cell")]
    logits, found = oracle(given["inputs"], *states)
    answer = program(given)
    loss = F.cross_entropy(logits.flatten(0, 1), given["targets"].flatten(), reduction="sum")
    torch.testing.assert_close(answer["loss"][0], loss)
    for name, state in zip(("hidden", "cell"), found, strict=True):
        torch.testing.assert_close(torch.stack([answer["state"][f"{name}.{i}"] for i in range(2)]), state)
    torch.testing.assert_close(program({k: v for k, v in given.items() if k != "targets"})["logits"], logits)
    answer["loss"][0].backward()
    loss.backward()
    torch.testing.assert_close(by_gate(program.layers["1"].cell.input_weight.grad), oracle.lstm.weight_ih_l1.grad)
    torch.testing.assert_close(program.embed.tokens.weight.grad, oracle.embed.weight.grad)
    torch.testing.assert_close(program.head.weight.grad[:, -1], oracle.output.bias.grad)


def test_dropout_is_between_layers_alone() -> None:
    """Zaremba et al., figure 2: what goes from a layer to the next is dropped, what goes over time is not."""
    program, given = built(dropout=0.5), batch()
    whole = Oracle(program)
    x = whole.embed(given["inputs"])
    for index in range(2):
        one = nn.LSTM(8, 8, batch_first=True)
        one.load_state_dict({f"{n[:-1]}0": w for n, w in whole.lstm.state_dict().items() if n.endswith(f"l{index}")})
        states = (given[f"hidden.{index}"][None], given[f"cell.{index}"][None])
        x, _ = one(dropout(x, 0.5, given["key"], f"layers.{index}"), states)
    logits = whole.output(dropout(x, 0.5, given["key"], "head"))
    loss = F.cross_entropy(logits.flatten(0, 1), given["targets"].flatten(), reduction="sum")
    torch.testing.assert_close(program(given)["loss"][0], loss)


def test_two_stretches_are_one_text() -> None:
    program, given = built().eval(), batch(tokens=8)
    answer = program(given)
    first = {**given, **{name: given[name][:, :4] for name in ("inputs", "targets")}}
    second = {**given, **{name: given[name][:, 4:] for name in ("inputs", "targets")}}
    begun = program(first)
    ended = program({**second, **begun["state"]})
    torch.testing.assert_close(begun["loss"][0] + ended["loss"][0], answer["loss"][0])
    torch.testing.assert_close(ended["state"], answer["state"])


def test_it_learns_text(ranks: Callable[..., list[Any]]) -> None:
    (found,) = ranks(
        learn,
        1,
        deadline=120,
        name="lstm",
        steps=300,
        data={"sequence_length": 32},
        optimizer={"lr": 1e-2, "weight_decay": 0.0},
    )
    assert found["last"]["loss"] < UNIGRAM - 0.4
    assert found["held_out"]["loss"] < UNIGRAM - 0.2


def differences(worker: Worker, strategy: str) -> dict[str, float] | None:
    return verify(worker, "lstm", "", {"vocab_size": 32, "width": 16}, "", strategy, {})


@pytest.mark.parametrize("strategy", ["zero3", "tensor2", "pipeline2", "ddp_tensor2"])
def test_a_layout_never_changes_the_result(ranks: Callable[..., list[Any]], strategy: str) -> None:
    found = ranks(differences, parse_strategy(strategy).world_size, strategy=strategy)[0]
    assert all(value <= 1e-5 for value in found.values()), found
