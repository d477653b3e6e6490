"""Experts over their axis: the result of one process, faults that are found, and what travels."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from communication import communication
from shardwright.jobs.verify import verify_each
from shardwright.models.catalog import configure, find
from shardwright.models.layers import experts
from shardwright.trainers import parallelize
from shardwright.trainers.layout import Layout, parse_strategy
from shardwright.trainers.legal import refusal
from shardwright.trainers.mesh import build_mesh
from shardwright.trainers.tensor import split_experts, split_tensors
from shardwright.trainers.world import Worker
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

TOLERANCE = 1e-5
CONFIG = {"vocab_size": 64, "context": 16, "width": 32, "layers": 2, "heads": 4, "kv_heads": 2, "hidden": 24}
STRATEGIES = {
    2: ["expert2", "zero3_expert2", "zero3_offload_expert2", "context2_expert2"],
    4: [
        "expert4",
        "ddpx4_expert2",
        "hsdp2x2_expert2",
        "zero1_expert2_tensor2",
        "tensor2_sequence_expert2",
        "pipeline2_expert2",
    ],
    8: ["zero1_expert2_tensor2_pipeline2", "zero3x4_context2_expert4"],
}


def differences(worker: Worker, strategies: list[str], fault: str = "") -> dict[str, dict[str, float]] | None:
    if fault:
        FAULTS[fault]()
    return verify_each(worker, "mixtral", "tiny", {**CONFIG, "balance": 0.5}, "", strategies, {})


@pytest.mark.parametrize("world", STRATEGIES)
def test_split_experts_give_the_result_of_one_process(ranks: Callable[..., list[Any]], world: int) -> None:
    found = ranks(differences, world, deadline=150, strategies=STRATEGIES[world])[0]
    assert found.keys() == set(STRATEGIES[world])
    for strategy, values in found.items():
        assert all(value <= TOLERANCE for value in values.values()), (strategy, values)


def imbalance_of_own_tokens() -> None:
    """Each rank balances its own tokens."""
    experts.total = lambda x, axis: x


def replicas_apart() -> None:
    """Ranks with the same experts keep the gradients of their own tokens."""
    parallelize._expert_sums = lambda *_: ()


def a_dropped_token() -> None:
    """The last row that comes to a rank's experts is lost."""
    original = experts.dispatch

    def lossy(*args: Any) -> Tensor:
        rows = original(*args)
        return torch.cat((rows[:-1], torch.zeros_like(rows[-1:])))

    experts.dispatch = lossy


FAULTS = {f.__name__: f for f in (imbalance_of_own_tokens, replicas_apart, a_dropped_token)}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_found(ranks: Callable[..., list[Any]], fault: str) -> None:
    (found,) = ranks(differences, 4, strategies=["ddpx4_expert2"], fault=fault)[0].values()
    assert any(value > TOLERANCE for value in found.values()), found


class Stacks(nn.Module):
    """Four experts."""

    def __init__(self) -> None:
        super().__init__()
        self.stack = nn.Parameter(torch.arange(4 * 2 * 6.0).view(4, 2, 6))
        self.odd = nn.Parameter(torch.zeros(3, 2))


def own_part(worker: Worker) -> list[Any]:
    """What a rank holds of a stack that is split over experts and, before, over the tensor axis; and a refusal."""
    mesh = build_mesh(parse_strategy("expert2_tensor2"), worker.rank, worker.device)
    program = nn.ModuleDict({"m": Stacks()})
    axis = mesh.axis("tensor")
    assert axis is not None
    split_tensors(program, ("m.stack",), axis, 2)
    (parameter,) = split_experts(program, ("m.stack",), mesh)
    assert isinstance(parameter, DTensor)
    try:
        split_experts(program, ("m.odd",), mesh)
    except ValueError as error:
        return [parameter.to_local().tolist(), parameter.full_tensor().tolist(), str(error)]
    return []


def test_a_stack_is_split_by_experts_and_inside_them(ranks: Callable[..., list[Any]]) -> None:
    whole = Stacks().stack.detach()
    for rank, (own, full, sentence) in enumerate(ranks(own_part, 4)):
        expert, tensor = divmod(rank, 2)
        assert torch.equal(torch.tensor(own), whole.chunk(2)[expert].chunk(2, 2)[tensor])
        assert torch.equal(torch.tensor(full), whole)
        assert sentence == "expert=2 does not divide the 3 experts of m.odd"


def test_what_cannot_be_split_is_said() -> None:
    mixtral, config = find("mixtral"), configure(find("mixtral"), "tiny")
    assert (
        refusal(mixtral, config, parse_strategy("ddpx3_expert3"))
        == "expert=3 does not divide experts=4 (legal: 1, 2, 4)"
    )
    assert "gpt2 has no experts" in refusal(find("gpt2"), configure(find("gpt2"), "tiny"), parse_strategy("expert2"))
    with pytest.raises(ValueError, match="expert=4 does not divide the 2 ranks of replicate 2 x shard 1 x context 1"):
        Layout(replicate=2, expert=4)


LAYERS, SAMPLES, TOKENS, WIDTH, EXPERTS, CHOICES, NUMBER = 2, 2, 16, 32, 4, 2, 4


def test_tokens_travel_once_for_each_of_their_experts(ranks: Callable[..., list[Any]]) -> None:
    """Rows out and back, in forward and in backward; beside them the counts, the load and the gradients."""
    found = ranks(communication, 2, model="mixtral", config=CONFIG, strategy="expert2", tokens=TOKENS, micro_batches=2)
    times = 2 * LAYERS  # micro-batches and layers
    rows = 2 * SAMPLES * TOKENS * CHOICES * WIDTH * NUMBER  # of both ranks
    counts = 2 * EXPERTS * 8
    assert all(of_rank["all-to-all"][0] == 5 * times for of_rank in found)
    assert sum(of_rank["all-to-all"][1] for of_rank in found) == times * (4 * rows + counts)
    whole = find("mixtral").parameters(configure(find("mixtral"), "tiny", CONFIG))
    experts = LAYERS * EXPERTS * 3 * WIDTH * 24
    load = 2 * 2 * (2 * EXPERTS * NUMBER)  # two micro-batches, forward and backward
    for of_rank in found:
        assert of_rank["all-reduce"] == [1 + 4, (whole - experts) * NUMBER + load]
        assert of_rank.keys() == {"all-to-all", "all-reduce"}
