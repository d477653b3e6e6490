"""A backward in two actions gives what one gives, computes nothing twice, and touches weights in the second alone."""

from collections.abc import Callable

import pytest
import torch
from shardwright.models.catalog import configure, find
from shardwright.models.program import build
from shardwright.trainers.split_backward import SplitBackward
from torch import Tensor, nn
from torch.autograd.graph import get_gradient_edge
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode


class Twice(torch.autograd.Function):
    """Computes both gradients at once, as every autograd.Function does."""

    @staticmethod
    def forward(ctx, x, weight):  # type: ignore[no-untyped-def]
        ctx.save_for_backward(x, weight)
        return x * weight

    @staticmethod
    def backward(ctx, gradient):  # type: ignore[no-untyped-def]
        x, weight = ctx.saved_tensors
        ctx.calls = getattr(ctx, "calls", 0) + 1
        assert ctx.calls == 1, "its gradients were computed twice"
        return gradient * weight, (gradient * x).sum(0)


class Recurrent(nn.Module):
    """Uses its weights and biases several times, one of them through a cast that all uses share."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.gate = nn.Linear(6, 6), nn.Parameter(torch.randn(6))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        gate = torch.sigmoid(self.gate)
        for _ in range(3):
            x = torch.tanh(self.cell(x)) * gate
        return (x,)


class Mixed(nn.Module):
    """Norm, convolution, embedding beside the way, an autograd.Function, a weight in two layers, a skipped input."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(6, 6), nn.LayerNorm(6), nn.Linear(6, 6, bias=False)
        self.convolution, self.places, self.scale = nn.Conv1d(1, 2, 3, padding=1), nn.Embedding(4, 6), nn.Linear(6, 1)
        self.last.weight = self.first.weight
        self.unused, self.frozen = nn.Parameter(torch.ones(2)), nn.Linear(6, 6).requires_grad_(False)

    def forward(self, x: Tensor, skip: Tensor) -> tuple[Tensor, ...]:
        places = self.places(torch.arange(4))
        x = self.norm(F.gelu(self.first(x))) + places
        x = Twice.apply(x, self.scale.weight[0].exp())
        x = self.frozen(self.convolution(x[:, None]).sum(1))
        return self.last(x), skip, places * 2, (x * skip).sum(1)


def weights_and_gradients(
    module: nn.Module, sizes: list[tuple[int, ...]], split: bool
) -> tuple[list[Tensor | None], list[Tensor | None]]:
    torch.manual_seed(1)
    inputs = [torch.randn(*size, requires_grad=True) for size in sizes]
    for _ in range(2):  # gradients are added to what is there
        outputs = module(*(inputs))
        seeds = [torch.ones_like(x) * 0.5 + x.detach() for x in outputs]
        if split:
            backward = SplitBackward([get_gradient_edge(x) for x in outputs], inputs)
            del outputs
            before = [None if p.grad is None else p.grad.clone() for p in module.parameters()]
            found = list(backward.inputs(seeds))
            assert all((a is None and p.grad is None) or torch.equal(a, p.grad)
                       for a, p in zip(before, module.parameters(), strict=True))  # fmt: skip
            backward.weights()
        else:
            for x in inputs:
                x.grad = None
            torch.autograd.backward(outputs, seeds)
            found = [x.grad for x in inputs]
    return [p.grad for p in module.parameters()], found


@pytest.mark.parametrize(
    ("make", "sizes"),
    [
        (Recurrent, [(4, 6)]),
        (Mixed, [(4, 6), (4, 6)]),
        (lambda: nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2), nn.Flatten(0, 0)), [(4, 6)]),
    ],
)
def test_two_actions_are_one_backward(make: Callable[[], nn.Module], sizes: list[tuple[int, ...]]) -> None:
    results = []
    for split in (False, True):
        torch.manual_seed(0)
        module = make()
        if isinstance(module, nn.Sequential):
            forward = module.forward
            module.forward = lambda x, forward=forward: (forward(x),)
        results.append(weights_and_gradients(module, sizes, split))
    for whole, split in zip(*results, strict=True):
        for a, b in zip(whole, split, strict=True):
            assert (a is None) == (b is None)
            if a is not None:
                torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)


def test_without_inputs_all_is_put_off() -> None:
    """As in the model's first stage."""
    layer, x = nn.Linear(6, 6), torch.randn(4, 6)
    y = layer(x)
    backward = SplitBackward([get_gradient_edge(y)], [])
    assert backward.inputs([torch.ones_like(y)]) == ()
    assert layer.weight.grad is None
    backward.weights()
    torch.testing.assert_close(layer.weight.grad, x.sum(0).expand(6, 6))


def test_an_input_without_influence_gets_none() -> None:
    x, y, z = torch.ones(2, requires_grad=True), torch.ones(2, requires_grad=True), torch.ones(2)
    backward = SplitBackward([get_gradient_edge(x * 2)], [x, y, z])
    first, *others = backward.inputs([torch.ones(2)])
    assert first is not None and first.tolist() == [2.0, 2.0] and others == [None, None]
    backward.weights()


def test_hooks_on_weights_run_once_and_late() -> None:
    """Replicas start to add up a gradient when its weight says that it is there."""
    module, called = Recurrent(), []
    for name, parameter in module.named_parameters():
        parameter.register_post_accumulate_grad_hook(lambda _, name=name: called.append(name))
    x = torch.randn(4, 6, requires_grad=True)
    (y,) = module(x)
    backward = SplitBackward([get_gradient_edge(y)], [x])
    backward.inputs([torch.ones_like(y)])
    assert called == []
    backward.weights()
    assert sorted(called) == sorted(name for name, _ in module.named_parameters())


def test_the_second_action_is_work_that_the_first_one_left() -> None:
    """GPT-2's blocks: no matrix product is done twice, and each action does half of them."""
    config = configure(find("gpt2"), "tiny", {"dropout": 0.0, "context": 32})
    program = build(find("gpt2"), config)
    program.embed = program.head = None
    flops = {}

    def counted(name: str, work: Callable[[], object]) -> None:
        with FlopCounterMode(display=False) as counter:
            work()
        flops[name] = counter.get_total_flops()

    def forward() -> tuple[Tensor, Tensor]:
        x = torch.randn(2, 32, config.width, requires_grad=True)
        (y,) = program({"inputs": torch.zeros(2, 32, dtype=torch.int64)}, x)
        return x, y

    _, y = forward()
    counted("whole", lambda: y.backward(torch.ones_like(y)))
    x, y = forward()
    backward = SplitBackward([get_gradient_edge(y)], [x])
    counted("inputs", lambda: backward.inputs([torch.ones_like(y)]))
    counted("weights", backward.weights)
    assert flops["inputs"] + flops["weights"] == flops["whole"]
    assert flops["weights"] == flops["whole"] / 2  # what attention itself computes is not counted on a CPU
