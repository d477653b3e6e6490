"""Is the chunked loss the plain one, with a memory that does not grow with the rows?"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from shardwright.models.layers.cross_entropy import cross_entropy
from shardwright.trainers.world import Worker
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode


def inputs(rows: int = 30, width: int = 8, vocab: int = 11, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    random = torch.Generator().manual_seed(0)
    x = torch.randn(rows, width, generator=random).to(dtype).requires_grad_()
    weight = torch.randn(vocab, width, generator=random).to(dtype).requires_grad_()
    targets = torch.randint(vocab, (rows,), generator=random)
    targets[::4] = -100
    return [x, weight, targets]


@pytest.mark.parametrize("chunk", [1, 11 * 7, 11 * 15, 11 * 29, 11 * 30])
def test_every_chunk_size_gives_the_plain_loss_and_gradients(chunk: int) -> None:
    x, weight, targets = inputs(dtype=torch.float32)
    total, count = cross_entropy(x.view(5, 6, 8), weight, targets.view(5, 6), chunk)
    (3.0 * total).backward()
    x_plain, weight_plain, _ = inputs(dtype=torch.float32)
    plain = F.cross_entropy(x_plain @ weight_plain.T, targets, reduction="sum")
    (3.0 * plain).backward()
    assert (total.dtype, count.dtype, total.dim(), count.dim()) == (torch.float32, torch.float32, 0, 0)
    assert int(count) == int((targets != -100).sum()) == 22
    torch.testing.assert_close(total, plain)
    torch.testing.assert_close(x.grad, x_plain.grad)
    torch.testing.assert_close(weight.grad, weight_plain.grad)


def test_half_precision_sums_in_fp32() -> None:
    x, weight, targets = inputs(dtype=torch.bfloat16)
    exact = F.cross_entropy(x.float() @ weight.float().T, targets, reduction="sum")
    total, _ = cross_entropy(x, weight, targets, 11 * 7)
    total.backward()
    assert total.dtype == torch.float32 and weight.grad is not None and weight.grad.dtype == torch.bfloat16
    torch.testing.assert_close(total, exact, rtol=1e-2, atol=0.0)


def test_nothing_to_predict_is_a_zero_with_zero_gradients() -> None:
    for chunk in (11 * 7, 11 * 30):
        x, weight, _ = inputs()
        total, count = cross_entropy(x, weight, torch.full((30,), -100), chunk)
        total.backward()
        assert float(total.detach()) == float(count) == 0.0
        assert x.grad is not None and weight.grad is not None
        assert not x.grad.any() and not weight.grad.any()


class Products(TorchDispatchMode):
    """Records the dtypes that matrices are multiplied in."""

    def __init__(self) -> None:
        super().__init__()
        self.dtypes: set[torch.dtype] = set()

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):  # type: ignore[no-untyped-def]
        if function._schema.name in ("aten::mm", "aten::addmm"):
            self.dtypes |= {tensor.dtype for tensor in arguments}
        return function(*arguments, **(keywords or {}))


@pytest.mark.parametrize("chunk", [11 * 7, 11 * 30])
def test_autocast_holds_for_backward_too(chunk: int) -> None:
    x, weight, targets = inputs(dtype=torch.float32)
    with Products() as products:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            total, _ = cross_entropy(x, weight, targets, chunk)
        total.backward()
    assert products.dtypes == {torch.bfloat16}
    x_plain, weight_plain, _ = inputs(dtype=torch.float32)
    F.cross_entropy(x_plain @ weight_plain.T, targets, reduction="sum").backward()
    assert x.grad is not None and weight.grad is not None and weight.grad.dtype == torch.float32
    torch.testing.assert_close(x.grad, x_plain.grad, rtol=0.05, atol=0.05)
    torch.testing.assert_close(weight.grad, weight_plain.grad, rtol=0.05, atol=0.05)


class Projection(nn.Module):
    """A module whose weight is gathered for its forward and its backward only."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(inputs(dtype=torch.float32)[1].detach())

    def forward(self, x: Tensor, targets: Tensor) -> Tensor:
        return cross_entropy(x, self.weight, targets, 11 * 7)[0]


def sharded_gradient(worker: Worker) -> list[list[float]]:
    """The weight's gradient where fully_shard gathers the weight, averaged over the equal ranks."""
    x, _, targets = inputs(dtype=torch.float32)
    program = nn.Sequential()
    program.add_module("head", Projection())
    fully_shard(program.head, reshard_after_forward=True)
    program.head(x, targets).backward()
    gradient = program.head.weight.grad
    assert isinstance(gradient, DTensor)
    result: list[list[float]] = gradient.full_tensor().tolist()
    return result


def test_chunks_work_where_the_weight_is_freed_between_forward_and_backward(ranks: Callable[..., list[Any]]) -> None:
    x, weight, targets = inputs(dtype=torch.float32)
    F.cross_entropy(x @ weight.T, targets, reduction="sum").backward()
    for found in ranks(sharded_gradient, 2):
        torch.testing.assert_close(torch.tensor(found), weight.grad)


class Largest(TorchDispatchMode):
    """Records the most elements of any tensor that an operation returns."""

    elements = 0

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):  # type: ignore[no-untyped-def]
        result = function(*arguments, **(keywords or {}))
        if isinstance(result, Tensor):
            self.elements = max(self.elements, result.numel())
        return result


def test_logits_never_exist_at_once() -> None:
    x, weight, targets = inputs(rows=512, width=4, vocab=256, dtype=torch.float32)
    with Largest() as largest:
        total, _ = cross_entropy(x, weight, targets, chunk=32 * 256)
        total.backward()
    assert largest.elements <= 32 * 256
