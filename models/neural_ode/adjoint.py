"""How is the solution of an ODE differentiated without keeping the solver's steps? By a second ODE, run backwards.

Chen et al., "Neural Ordinary Differential Equations" (2018), section 2: with y' = f(t, y), the adjoint a = dL/dy has
a' = -a df/dy, and dL/dparameters is the integral of a df/dparameters. Kept are the solutions at the times asked for;
between two of them backward starts anew from the kept one.

The solver is the fourth-order Runge-Kutta method by Kutta's 3/8 rule with fixed steps. Steps that adapt to an error
over a batch would make a sample's solution depend on the samples beside it, and so on the layout.

B samples, T times, D numbers of a state.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

States = tuple[Tensor, ...]  # solved together
Slope = Callable[[float, States], States]  # of states, at a time in [0, 1]


def solve(motion: nn.Module, times: Tensor, start: Tensor, steps: int = 1) -> Tensor:
    """Solutions of y' = motion(t, y) at the times [B, T], from y [B, D] at the first of them: [B, T, D].

    Args:
        motion: (t [B, 1], y [B, D]) to y' [B, D]; all of its parameters get a gradient.
        steps: of the solver between two times.
    """
    result: Tensor = _Solve.apply(motion, times, start, steps, *motion.parameters())
    return result


class _Solve(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, motion: nn.Module, times: Tensor, start: Tensor, steps: int, *parameters: Tensor) -> Tensor:
        found = [start]
        for span in pairwise(times.unbind(1)):
            (last,) = runge_kutta(_forwards(motion, *span), (found[-1],), steps)
            found.append(last)
        ctx.motion, ctx.steps = motion, steps
        ctx.save_for_backward(times, *found)
        return torch.stack(found, 1)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
        times, *found = ctx.saved_tensors
        adjoint = gradient[:, -1]
        sums: States = tuple(torch.zeros_like(p) for p in ctx.motion.parameters())
        for i in reversed(range(1, len(found))):
            slope = _backwards(ctx.motion, times[:, i], times[:, i - 1])
            _, adjoint, *rest = runge_kutta(slope, (found[i], adjoint, *sums), ctx.steps)
            adjoint, sums = adjoint + gradient[:, i - 1], tuple(rest)
        return None, None, adjoint, None, *sums


def runge_kutta(slope: Slope, states: States, steps: int) -> States:
    """States after a time of one, in so many steps of Kutta's 3/8 rule (1901)."""
    h = 1.0 / steps
    for step in range(steps):
        t = step * h
        k1 = slope(t, states)
        k2 = slope(t + h / 3, _moved(states, (h / 3, k1)))
        k3 = slope(t + 2 * h / 3, _moved(states, (-h / 3, k1), (h, k2)))
        k4 = slope(t + h, _moved(states, (h, k1), (-h, k2), (h, k3)))
        states = _moved(states, (h / 8, k1), (3 * h / 8, k2), (3 * h / 8, k3), (h / 8, k4))
    return states


def _moved(states: States, *by: tuple[float, States]) -> States:
    """The states plus multiples of slopes."""
    for factor, slopes in by:
        states = tuple(x + factor * slope for x, slope in zip(states, slopes, strict=True))
    return states


def _scaled(motion: nn.Module, first: Tensor, last: Tensor) -> Callable[[float, Tensor], Tensor]:
    """The motion from a time [B] to another one [B], told as one from 0 to 1, so that samples' times may differ."""
    begin, length = first[:, None], (last - first)[:, None]
    return lambda t, y: length * motion(begin + t * length, y)


def _forwards(motion: nn.Module, first: Tensor, last: Tensor) -> Slope:
    """Slopes of (y,) on the way from a time [B] to a later one [B]."""
    forward = _scaled(motion, first, last)
    return lambda t, states: (forward(t, states[0]),)


def _backwards(motion: nn.Module, first: Tensor, last: Tensor) -> Slope:
    """Slopes of (y, a, sums over parameters) on the way from a time [B] to an earlier one [B]."""
    forward = _scaled(motion, first, last)

    def slope(t: float, states: States) -> States:
        y, adjoint, *_ = states
        with torch.enable_grad():
            y = y.detach().requires_grad_()
            moved = forward(t, y)
            found = _gradients(moved, (y, *motion.parameters()), adjoint)
        return (moved.detach(), *(-x for x in found))

    return slope


def _gradients(of: Tensor, by: Sequence[Tensor], weights: Tensor) -> States:
    """Products of weights [B, D] with the derivatives; zeros where nothing depends."""
    return torch.autograd.grad(of, by, weights, materialize_grads=True)
