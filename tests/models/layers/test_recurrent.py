"""Are the recurrent layers torch's, whole and with their units split over ranks?"""

from collections.abc import Callable
from typing import Any

import torch
from shardwright.models.axes import Axes, Axis
from shardwright.models.layers.recurrent import GRU, LSTM, by_gate
from shardwright.trainers.world import Worker
from torch import Tensor, nn

B, T, D, H = 3, 7, 5, 8


def lstm_oracle(layer: LSTM) -> nn.LSTM:
    oracle = nn.LSTM(layer.input_weight.shape[2], layer.width, batch_first=True)
    with torch.no_grad():
        oracle.weight_ih_l0.copy_(by_gate(layer.input_weight))
        oracle.weight_hh_l0.copy_(by_gate(layer.hidden_weight))
        oracle.bias_ih_l0.copy_(by_gate(layer.bias))
        oracle.bias_hh_l0.zero_()
    return oracle


def gru_oracle(layer: GRU) -> nn.GRU:
    oracle = nn.GRU(layer.input_weight.shape[2], layer.width, batch_first=True)
    with torch.no_grad():
        oracle.weight_ih_l0.copy_(by_gate(layer.input_weight))
        oracle.weight_hh_l0.copy_(by_gate(layer.hidden_weight))
        oracle.bias_ih_l0.copy_(by_gate(layer.bias))
        oracle.bias_hh_l0.zero_()[2 * layer.width :] = layer.reset_bias
    return oracle


def test_the_lstm_is_torchs() -> None:
    torch.manual_seed(0)
    layer, x, states = LSTM(D, H), torch.randn(B, T, D, requires_grad=True), (torch.randn(B, H), torch.randn(B, H))
    oracle = lstm_oracle(layer)
    ours = layer(x, *states)
    theirs, (hidden, cell) = oracle(x, (states[0][None], states[1][None]))
    for a, b in zip(ours, (theirs, hidden[0], cell[0]), strict=True):
        torch.testing.assert_close(a, b)
    (mine,) = torch.autograd.grad(ours[0].square().sum() + ours[2].sum(), x, retain_graph=True)
    (its,) = torch.autograd.grad(theirs.square().sum() + cell.sum(), x, retain_graph=True)
    torch.testing.assert_close(mine, its)
    ours[0].square().sum().backward()
    theirs.square().sum().backward()
    torch.testing.assert_close(by_gate(layer.hidden_weight.grad), oracle.weight_hh_l0.grad)
    torch.testing.assert_close(by_gate(layer.bias.grad), oracle.bias_ih_l0.grad)


def test_the_gru_is_torchs() -> None:
    torch.manual_seed(0)
    layer, x, state = GRU(D, H), torch.randn(B, T, D), torch.randn(B, H)
    oracle = gru_oracle(layer)
    ours, (theirs, last) = layer(x, state), oracle(x, state[None])
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(ours[:, -1], last[0])
    ours.square().sum().backward()
    theirs.square().sum().backward()
    torch.testing.assert_close(by_gate(layer.hidden_weight.grad), oracle.weight_hh_l0.grad)
    torch.testing.assert_close(layer.reset_bias.grad, oracle.bias_hh_l0.grad[2 * H :])


def test_inputs_may_come_in_parts() -> None:
    layer, x = GRU(D, H), torch.randn(B, T, D)
    torch.testing.assert_close(layer.inputs(x[..., :2]) + layer.inputs(x[..., 2:], first=2), layer.inputs(x))


def split(worker: Worker, kind: str) -> float:
    """How far outputs and gradients are from those of the whole layer, on each rank."""
    import torch.distributed as dist

    torch.manual_seed(0)
    layer: Any = {"lstm": LSTM, "gru": GRU}[kind](D, H)
    states = [torch.randn(B, H, requires_grad=True) for _ in range(2 if kind == "lstm" else 1)]
    x = torch.randn(B, T, D, requires_grad=True)
    whole = passed(layer, x, states)
    own = slice(worker.rank * H // 2, (worker.rank + 1) * H // 2)
    wanted = [*whole[0], *whole[1], *(p.grad[own] for p in layer.parameters())]
    for name, parameter in list(layer.named_parameters()):
        setattr(layer, name, nn.Parameter(parameter.detach()[own].clone()))
    layer.axes = Axes(tensor=Axis(worker.rank, 2, dist.group.WORLD))
    found = passed(layer, x, states)
    got = [*found[0], *found[1], *(p.grad for p in layer.parameters())]
    return max((a - b).abs().max().item() for a, b in zip(got, wanted, strict=True))


def passed(layer: nn.Module, x: Tensor, states: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """Outputs, and gradients of the inputs."""
    answer = layer(x, *states)
    outputs = list(answer) if isinstance(answer, tuple) else [answer]
    for one in (x, *states):
        one.grad = None
    sum(one.square().sum() for one in outputs).backward()
    return [one.detach() for one in outputs], [one.grad.clone() for one in (x, *states)]


def test_split_units_give_the_whole_layer(ranks: Callable[..., list[Any]]) -> None:
    for kind in ("lstm", "gru"):
        assert max(ranks(split, 2, kind=kind)) < 1e-5
