"""What happens to a cart that balances a pole? Rows of states in, rows of states out; nothing is kept or drawn here.

Barto, Sutton and Anderson, "Neuronlike Adaptive Elements That Can Solve Difficult Learning Control Problems" (1983),
with the constants and the limits of gymnasium's CartPole-v1. B carts. A state is float32 [B, 4]: position in m,
velocity in m/s, angle in rad, angular velocity in rad/s.
"""

import torch
from torch import Tensor

from .environment import Environment, Moved

GRAVITY, CART, POLE, HALF, FORCE, TICK = 9.8, 1.0, 0.1, 0.5, 10.0, 0.02  # m/s^2, kg, kg, m, N, s
FARTHEST, STEEPEST = 2.4, 12 * 2 * torch.pi / 360  # m, rad


def begin(uniform: Tensor) -> Tensor:
    """States that episodes begin in, from uniform numbers [..., 4]: each number within [-0.05, 0.05)."""
    return uniform * 0.1 - 0.05


def move(state: Tensor, action: Tensor) -> Moved:
    """One tick after an action, int64 [B]: 0 pushes to the left, 1 to the right. Every step is worth 1."""
    position, speed, angle, spin = state.unbind(-1)
    force = FORCE * (2.0 * action - 1.0)
    cosine, sine = angle.cos(), angle.sin()
    pushed = (force + POLE * HALF * spin.square() * sine) / (CART + POLE)
    turning = (GRAVITY * sine - cosine * pushed) / (HALF * (4.0 / 3.0 - POLE * cosine.square() / (CART + POLE)))
    sliding = pushed - POLE * HALF * turning * cosine / (CART + POLE)
    new = torch.stack((position + TICK * speed, speed + TICK * sliding, angle + TICK * spin, spin + TICK * turning), -1)
    fallen = (new[:, 0].abs() > FARTHEST) | (new[:, 2].abs() > STEEPEST)
    return Moved(new, torch.ones_like(position), fallen)


CARTPOLE = Environment(begin, move, numbers=4, actions=2, limit=500)
