"""`verify` judges each strategy, says why one failed, and prints JSON for machines."""

import json
from typing import Any

import pytest
from shardwright.cluster import verify as module
from shardwright.cluster.pool import Pool
from shardwright.cluster.verify import judge, verify

SMALL = {"vocab_size": 64, "context": 16, "width": 32, "layers": 2}
PAYLOAD = {"model": "gpt2", "preset": "", "config": SMALL, "data": "", "optimizer": {}, "dtype": "fp32"}


def test_two_strategies_of_gpt2() -> None:
    told: list[str] = []
    found = verify("gpt2", ["ddp", "zero3_pipeline2"], config=SMALL, found=lambda verdict: told.append(verdict.name))
    assert found.ok and told == ["ddp", "zero3_pipeline2"]
    tree: dict[str, Any] = json.loads(found.to_json())
    assert tree["model"] == "gpt2"
    ddp, product = tree["strategies"]
    assert (ddp["world_size"], product["world_size"]) == (2, 4)
    for name in ("loss_diff", "grad_diff", "weight_diff"):
        assert 0 <= ddp[name] <= 1e-5
    assert "zero3_pipeline2" in str(found)


def test_a_difference_above_the_bound_is_not_ok(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOSS_TOLERANCE", {"fp32": 1e-12})
    (verdict,) = judge(pool, ["ddp"], 2, PAYLOAD)
    assert not verdict.ok and verdict.loss_diff is not None and not verdict.reason


BF16 = ["ddp", "zero1", "zero2", "zero3", "tensor2", "pipeline2"]


def test_bf16_is_held_to_its_own_bound_of_the_loss_and_the_rest_is_told() -> None:
    found = verify("gpt2", BF16, config=SMALL, dtype="bf16")
    assert found.ok and "at most 0.002 of the loss" in str(found) and json.loads(found.to_json())["dtype"] == "bf16"
    for verdict in found.strategies:
        assert verdict.loss_diff is not None and 1e-6 < verdict.loss_diff <= 2e-3  # not fp32 by another name
        assert verdict.grad_diff is not None and 1e-4 < verdict.grad_diff < 2e-2
        assert verdict.weight_diff is not None and verdict.update_diff is not None


def test_an_engine_that_has_no_such_dtype_is_refused() -> None:
    with pytest.raises(ValueError, match="engine=deepspeed"):
        verify("gpt2", ["deepspeed_zero1"], config=SMALL, dtype="bf16")


def test_ranks_that_fail_are_a_verdict_with_their_traceback(pool: Pool) -> None:
    (verdict,) = judge(pool, ["ddp"], 2, {**PAYLOAD, "optimizer": {"lr": "fast"}})
    assert not verdict.ok and verdict.loss_diff is None
    assert "rank" in verdict.reason


def test_what_is_not_finite_is_not_ok(pool: Pool) -> None:
    (verdict,) = judge(pool, ["ddp"], 2, {**PAYLOAD, "optimizer": {"lr": float("inf")}})
    assert not verdict.ok and verdict.update_diff is None
    assert "not finite" in verdict.reason
    assert "Infinity" not in json.dumps(verdict.update_diff)


@pytest.mark.parametrize(
    ("strategies", "message"),
    [
        (["tensor3"], "tensor=3 does not divide heads=4"),
        (["zero5"], "is not one of ddp"),
        (["pipeline9"], "more than the"),
    ],
)
def test_an_impossible_strategy_stops_before_anything_starts(strategies: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        verify("gpt2", strategies, config=SMALL)
