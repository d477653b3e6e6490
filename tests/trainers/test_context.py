"""Tokens over the context axis: the result of one process, faults that are found, and what travels."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from communication import communication
from shardwright.jobs.verify import verify_each
from shardwright.models.catalog import configure, find
from shardwright.models.gpt2 import model as gpt2
from shardwright.models.layers import attention
from shardwright.models.layers.collectives import join
from shardwright.trainers import parallelize, sharded
from shardwright.trainers.layout import Layout, parse_strategy
from shardwright.trainers.legal import refusal
from shardwright.trainers.replicate import GradientReducer
from shardwright.trainers.world import Worker

TOLERANCE = 1e-5
CONFIG = {"vocab_size": 64, "context": 16, "width": 32, "layers": 2, "dropout": 0.1}
STRATEGIES = {
    2: ["context2_gather", "context2_ulysses"],
    4: ["context4_gather", "context4_ulysses", "ddp_context2_gather", "zero1_context2_ulysses", "context2_pipeline2"],
    8: ["zero3_tensor2_context2", "hsdp2x2_context2", "tensor2_sequence_context2_ulysses_pipeline2"],
}


def differences(worker: Worker, strategies: list[str], fault: str = "") -> dict[str, dict[str, float]] | None:
    if fault:
        FAULTS[fault]()
    return verify_each(worker, "gpt2", "tiny", CONFIG, "", strategies, {})


@pytest.mark.parametrize("world", STRATEGIES)
def test_split_tokens_give_the_result_of_one_process(ranks: Callable[..., list[Any]], world: int) -> None:
    """With dropout, whose numbers follow the token's place in its sample."""
    found = ranks(differences, world, deadline=120, strategies=STRATEGIES[world])[0]
    assert found.keys() == set(STRATEGIES[world])
    for strategy, values in found.items():
        assert all(value <= TOLERANCE for value in values.values()), (strategy, values)


def over_data_alone() -> None:
    """Gradients are summed over the ranks with other samples, and not over those with other tokens."""
    original = GradientReducer.__init__

    def narrow(self: GradientReducer, parameters: Any, group: Any, *rest: Any) -> None:
        columns = [torch.distributed.new_group([index, index + 2]) for index in range(2)]
        original(self, parameters, columns[torch.distributed.get_rank() % 2], *rest)

    GradientReducer.__init__ = narrow


def gradients_of_own_queries_alone() -> None:
    """A key's gradient counts the queries of its own rank, and not those of the others."""
    attention.gather = join


def places_in_the_slice() -> None:
    """A rank takes its tokens for the first of the sample."""
    original = sharded.own_tokens

    def local(*args: Any) -> Any:
        batch = original(*args)
        return {**batch, "position": torch.arange(batch["inputs"].shape[1]).expand_as(batch["inputs"])}

    sharded.own_tokens = local


def draws_by_the_slice() -> None:
    """Dropout is drawn by a token's place on its rank."""
    gpt2.drop = lambda x, p, key, name, tokens: gpt2.dropout(x, p, key, name)


FAULTS = {
    f.__name__: f for f in (over_data_alone, gradients_of_own_queries_alone, places_in_the_slice, draws_by_the_slice)
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_found(ranks: Callable[..., list[Any]], fault: str) -> None:
    strategy = "ddp_context2_gather"
    (found,) = ranks(differences, 4, strategies=[strategy], fault=fault)[0].values()
    assert any(value > TOLERANCE for value in found.values()), found


def test_what_cannot_be_split_is_said_before_it_is_built() -> None:
    entry, config = find("gpt2"), configure(find("gpt2"), "tiny")
    assert refusal(entry, config, parse_strategy("context2_ulysses_tensor2")) == ""
    assert (
        refusal(entry, config, parse_strategy("context4_ulysses_tensor2"))
        == "ulysses=8 does not divide heads=4 (legal: 1, 2, 4)"
    )
    assert refusal(entry, config, parse_strategy("context4_gather_tensor2")) == ""
    assert Layout(context=4).refusal(20) == "context=4 cuts a sample into 8 chunks, which do not divide its 20 tokens"
    assert Layout(context=4).refusal(24) == Layout().refusal(5) == ""


def refused(worker: Worker) -> str:
    entry = find("gpt2")
    mesh = parallelize.Mesh(Layout(context=2), worker.rank, worker.device, None, None, None)
    try:
        parallelize.parallelize(entry, configure(entry, "tiny"), mesh, seed=0, tokens=18)
    except ValueError as error:
        return str(error)
    return ""


def test_tokens_that_do_not_divide_are_refused(ranks: Callable[..., list[Any]]) -> None:
    assert "cuts a sample into 4 chunks, which do not divide its 18 tokens" in ranks(refused, 1)[0]


LLAMA = {"vocab_size": 64, "context": 16, "width": 32, "layers": 3, "heads": 4, "kv_heads": 2, "hidden": 40}
LAYERS, SAMPLES, TOKENS, WIDTH, KEYS, NUMBER = 3, 2, 16, 32, 16, 4  # KEYS: width of all key heads; NUMBER: bytes


@pytest.mark.parametrize("degree", [2, 4])
def test_gathering_moves_the_keys_and_values_of_all_tokens_once(ranks: Callable[..., list[Any]], degree: int) -> None:
    entry = find("llama")
    parameters = entry.parameters(configure(entry, "tiny", LLAMA))
    strategy = f"context{degree}_gather"
    for found in ranks(
        communication, degree, model="llama", config=LLAMA, strategy=strategy, tokens=TOKENS, micro_batches=2
    ):
        gathered = 2 * SAMPLES * (TOKENS // degree) * KEYS * NUMBER  # keys and values of a rank's tokens
        times = 2 * LAYERS  # micro-batches and layers
        assert found["all-gather"] == [times, times * gathered]
        assert found["reduce-scatter"] == [times, times * gathered * degree]
        assert found["all-reduce"] == [1, parameters * NUMBER]
        assert found.keys() == {"all-gather", "reduce-scatter", "all-reduce"}


def test_ulysses_moves_each_token_and_head_twice(ranks: Callable[..., list[Any]]) -> None:
    asked = {"model": "llama", "config": LLAMA, "strategy": "context2_ulysses", "tokens": TOKENS, "micro_batches": 2}
    for found in ranks(communication, 2, **asked):
        there, back = ((WIDTH + 2 * KEYS) * NUMBER, WIDTH * NUMBER)  # of a token
        times = 2 * 2 * LAYERS  # micro-batches, forward and backward, layers
        assert found["all-to-all"] == [2 * times, times * SAMPLES * (TOKENS // 2) * (there + back)]
        assert found["all-reduce"][0] == 1 and found.keys() == {"all-to-all", "all-reduce"}
