"""Is the adjoint method's gradient torchdiffeq's, does the forecast beat what needs no learning, and does it split?"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from entries import check_differences, differences, kept
from learning import learn
from records import check_record
from shardwright.models.neural_ode.adjoint import solve
from shardwright.models.neural_ode.entry import PRESETS, NeuralODEConfig
from shardwright.models.neural_ode.model import Motion, NeuralODE
from shardwright.trainers.data.samples.sunspots import load
from torch import Tensor, nn

TIMES = torch.tensor([0.0, 0.25, 0.75, 1.0, 2.0])


def motion() -> Motion:
    torch.manual_seed(0)
    return Motion(3, 16)


def start() -> Tensor:
    return torch.randn(4, 3, generator=torch.Generator().manual_seed(1)).requires_grad_()


def gradients(value: Tensor, by: list[Tensor]) -> list[Tensor]:
    """Of a sum in which every number counts differently."""
    weights = torch.linspace(-1, 1, value.numel()).view_as(value)
    return list(torch.autograd.grad((weights * value.sin()).sum(), by))


@pytest.mark.parametrize("preset", PRESETS)
def test_the_record_is_that_of_the_built_model(preset: str) -> None:
    check_record("neural_ode", preset)


def test_presets_have_the_papers_sizes() -> None:
    paper = PRESETS["paper"]
    assert (paper.state, paper.hidden, paper.encoder) == (4, 20, 25)


def test_impossible_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="state=0 is not positive"):
        NeuralODEConfig(state=0)
    program = NeuralODE(PRESETS["tiny"])
    with pytest.raises(ValueError, match="22 values at 22 times: expected seen=22 values and more times"):
        program.forecast(torch.zeros(2, 22), torch.zeros(2, 22))


@pytest.mark.parametrize(("steps", "size"), [(1, {}), (4, {"step_size": 0.0625})])
def test_values_and_gradients_are_torchdiffeqs(steps: int, size: dict[str, float]) -> None:
    from torchdiffeq import odeint_adjoint

    class Theirs(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.motion = motion()

        def forward(self, time: Tensor, state: Tensor) -> Tensor:
            result: Tensor = self.motion(time.expand(len(state), 1), state)
            return result

    times = TIMES if steps == 1 else torch.arange(4) / 4  # theirs has one size for all steps
    theirs, ours = Theirs(), motion()
    begin, beginning = start(), start()
    expected = odeint_adjoint(theirs, begin, times, method="rk4", options=size).transpose(0, 1)
    found = solve(ours, times.expand(4, -1), beginning, steps)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-6)
    wanted = gradients(expected, [begin, *theirs.parameters()])
    for gradient, other in zip(gradients(found, [beginning, *ours.parameters()]), wanted, strict=True):
        torch.testing.assert_close(gradient, other, atol=1e-5, rtol=1e-5)


class Linear(nn.Module):
    """y' = A y."""

    def __init__(self) -> None:
        super().__init__()
        self.matrix = nn.Parameter(torch.tensor([[-0.3, 1.0, 0.2], [-1.0, -0.1, 0.0], [0.5, 0.0, -0.6]]))

    def forward(self, time: Tensor, state: Tensor) -> Tensor:
        return state @ self.matrix.T


def test_a_linear_motion_is_the_exponential_whatever_the_samples_times() -> None:
    """With small steps, values and gradients go to the exact ones; each sample has times of its own."""
    linear, begin = Linear(), start()
    times = torch.stack([TIMES, 0.5 * TIMES, TIMES + 3.0, TIMES.square()])
    found = solve(linear, times, begin, 32)
    since = times - times[:, :1]
    exact = torch.einsum("btij,bj->bti", torch.matrix_exp(since[..., None, None] * linear.matrix), begin)
    torch.testing.assert_close(found, exact, atol=1e-5, rtol=1e-5)
    pairs = zip(gradients(found, [begin, linear.matrix]), gradients(exact, [begin, linear.matrix]), strict=True)
    for gradient, other in pairs:
        torch.testing.assert_close(gradient, other, atol=1e-4, rtol=1e-4)


def test_the_solvers_steps_are_not_kept() -> None:
    sizes = []
    for steps in (1, 16):
        with kept() as bytes_of:
            solve(motion(), TIMES.expand(4, -1), start(), steps)
        sizes.append(sum(bytes_of.values()))
    assert sizes[0] == sizes[1] < 1000


def floors(seen: int) -> dict[str, float]:
    """Mean squared errors, on held-out windows, of forecasts that need no learning."""
    held_out = load().held_out
    assert held_out is not None
    values = torch.from_numpy(held_out.arrays["values"][:32])
    past, future = values[:, :seen], values[:, seen:]
    said = {
        "the training years' mean": 0.0 * past[:, :1],
        "the last value": past[:, -1:],
        "the window's mean": past.mean(1, True),
    }
    return {name: float((future - value).square().mean()) for name, value in said.items()}


def test_it_forecasts_sunspots(ranks: Callable[..., list[Any]]) -> None:
    optimizer = {"lr": 1e-2, "weight_decay": 0.01}
    (found,) = ranks(learn, 1, deadline=200, name="neural_ode", steps=100, batches=1, optimizer=optimizer)
    assert found["held_out"]["loss"] < min(floors(PRESETS["tiny"].seen).values())
    assert found["last"]["loss"] < 0.75 * found["first"]["loss"]


def test_a_layout_never_changes_the_result(ranks: Callable[..., list[Any]]) -> None:
    check_differences(ranks(differences, 2, name="neural_ode", strategies=["ddp", "zero2", "zero3", "tensor2"])[0])
