"""`verify` judges each strategy, says why one failed, and prints JSON for machines."""

import json
from typing import Any

import pytest
from shardwright.cluster import verify as module
from shardwright.cluster.pool import Pool
from shardwright.cluster.verify import judge, verify

SMALL = {"vocab_size": 64, "context": 16, "width": 32, "layers": 2}
PAYLOAD = {"model": "gpt2", "preset": "", "config": SMALL, "data": "", "optimizer": {}}


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
    monkeypatch.setattr(module, "TOLERANCE", 1e-12)
    (verdict,) = judge(pool, ["ddp"], 2, PAYLOAD)
    assert not verdict.ok and verdict.loss_diff is not None and not verdict.reason


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
