"""Learning rates against torch's own schedulers."""

import warnings

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from shardwright.trainers.options import ScheduleOptions
from shardwright.trainers.schedules import factor


@pytest.mark.parametrize(("warmup", "steps", "final"), [(0, 10, 0.0), (5, 30, 0.1), (10, 100, 0.25)])
def test_cosine_is_torchs_after_a_linear_warm_up(warmup: int, steps: int, final: float) -> None:
    rule = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(rule, T_max=steps - warmup, eta_min=final)
    options = ScheduleOptions(name="cosine", warmup=warmup, final=final)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch wants an update before each step of the schedule
        for step in range(warmup, steps):
            cosine.step()
            assert factor(options, step, steps) == pytest.approx(rule.param_groups[0]["lr"], abs=1e-6)
    assert [factor(options, step, steps) for step in range(warmup)] == [(i + 1) / warmup for i in range(warmup)]


def test_wsd_is_flat_then_falls_in_a_line() -> None:
    options = ScheduleOptions(name="wsd", warmup=2, cooldown=0.2, final=0.0)
    factors = [factor(options, step, 20) for step in range(20)]
    assert factors[:2] == [0.5, 1.0]
    assert factors[2:16] == [1.0] * 14
    assert factors[16:] == pytest.approx([0.75, 0.5, 0.25, 0.0])


@given(
    st.sampled_from(["constant", "cosine", "wsd"]),
    st.integers(0, 50),
    st.integers(1, 200),
    st.floats(0, 1),
    st.floats(0, 1),
)
def test_factors_stay_between_zero_and_one(name: str, warmup: int, steps: int, final: float, cooldown: float) -> None:
    options = ScheduleOptions(name=name, warmup=warmup, final=final, cooldown=cooldown)
    factors = [factor(options, step, steps) for step in range(steps)]
    assert all(0 <= value <= 1 for value in factors)
    after = factors[warmup:]
    assert after == sorted(after, reverse=True)
