"""What a step says to other ranks is what its strategy must say: collectives and bytes, each from a formula.

One step of M micro-batches of B samples and T tokens, AdamW. Bytes are those that a rank hands over.
"""

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributed as dist
from shardwright.cluster.pool import Pool
from shardwright.jobs.verify import trial_batches
from shardwright.models.catalog import configure, find
from shardwright.trainers import replicate
from shardwright.trainers.clock import Clock
from shardwright.trainers.engine import build_engine
from shardwright.trainers.layout import parse_strategy
from shardwright.trainers.mesh import Mesh, build_mesh
from shardwright.trainers.options import OptimizerOptions
from shardwright.trainers.step import Step
from shardwright.trainers.traffic import Traffic
from shardwright.trainers.world import Worker

M, B, T = 2, 2, 16
V, C, L = 64, 32, 4  # vocabulary, width, layers
CONFIG = {"vocab_size": V, "context": T, "width": C, "layers": L}
F = 4  # bytes of a number
P = F * find("gpt2").parameters(configure(find("gpt2"), "tiny", CONFIG))
U = L + 1  # units that are gathered: blocks, and embedding with head, whose weight is tied
X = F * B * T * C  # the residual stream of a micro-batch
TIE = F * V * C
BLOCK = F * (12 * C * C + 13 * C)
BETWEEN = F * (T * C + (2 * L + 1) * 2 * C + 2 * L * C)  # positions, norms, the biases behind split layers
PART = (P - BETWEEN) // 2 + BETWEEN  # what one of two tensor ranks holds
SCALARS = 8 * 4  # loss, its count, the squared norm and the wish to stop, in float64
ONCE = (1, SCALARS)
LOSS = F * B * T * 3  # of a split vocabulary: each row's largest logit; its sum of exponentials and its target's logit

REGIONS = M * (4 * L + 2)  # into and out of 2 L regions, forward and backward; out of the embedding, into the head
SPLIT = {"all_reduce": (REGIONS + 2 * M, REGIONS * X + M * LOSS)}
Said = dict[str, tuple[int, int]]

TWO: dict[str, Said] = {
    # all gradients fit one bucket, reduced in the last backward
    "ddp": {"all_reduce": (1 + 1, P + SCALARS)},
    # gathered in the first forward, kept, reduced in the last backward
    "zero1": {"all_gather": (U, P // 2), "reduce_scatter": (U, P), "all_reduce": ONCE},
    # reduced in every backward
    "zero2": {"all_gather": (U, P // 2), "reduce_scatter": (M * U, M * P), "all_reduce": ONCE},
    # gathered in every forward and every backward
    "zero3": {"all_gather": (2 * M * U, M * P), "reduce_scatter": (M * U, M * P), "all_reduce": ONCE},
    "zero3_offload": {"all_gather": (2 * M * U, M * P), "reduce_scatter": (M * U, M * P), "all_reduce": ONCE},
    "tensor2": {"all_reduce": (SPLIT["all_reduce"][0] + 1, SPLIT["all_reduce"][1] + SCALARS)},
    # each sum becomes a gather of half the tokens or a scatter of all; gradients between split layers are partial
    "tensor2_sequence": {
        "all_gather": (REGIONS, REGIONS * X // 2),
        "reduce_scatter": (REGIONS, REGIONS * X),
        "all_reduce": (2 * M + 1 + 1, M * LOSS + BETWEEN + SCALARS),
    },
    # keys and values of half the tokens are gathered in forward, their gradients of all tokens scattered in backward
    "context2_gather": {
        "all_gather": (M * L, M * L * X),
        "reduce_scatter": (M * L, 2 * M * L * X),
        "all_reduce": (1 + 1, P + SCALARS),
    },
    # queries, keys, values of half the tokens go and outputs come back; the same in backward
    "context2_ulysses": {
        "all_to_all": (4 * M * L, 2 * M * L * (3 * X // 2 + X // 2)),
        "all_reduce": (1 + 1, P + SCALARS),
    },
    # one boundary forward, one gradient back; the tied weight's two copies add their gradients
    "pipeline2": {"send": (M, M * X), "receive": (M, M * X), "all_reduce": (1 + 1, TIE + SCALARS)},
    # three boundaries between four parts, each crossed forward and back by both ranks
    "pipeline2_interleaved": {
        "send": (3 * M, 3 * M * X),
        "receive": (3 * M, 3 * M * X),
        "all_reduce": (1 + 1, TIE + SCALARS),
    },
    # a V: two of the three boundaries are between ranks, and both copies of the tied weight are on the first one
    "pipeline2_zbv": {"send": (2 * M, 2 * M * X), "receive": (2 * M, 2 * M * X), "all_reduce": ONCE},
}
FOUR: dict[str, Said] = {
    # shards are reduced in every backward, their replicas once a step
    "hsdp2x2": {
        "shard all_gather": (2 * M * U, M * P),
        "shard reduce_scatter": (M * U, M * P),
        "replicate all_reduce": (U, P // 2),
        "world all_reduce": ONCE,
    },
    # ZeRO sees what the tensor axis left
    "zero3_tensor2": {
        "shard all_gather": (2 * M * U, M * PART),
        "shard reduce_scatter": (M * U, M * PART),
        "tensor all_reduce": SPLIT["all_reduce"],
        "world all_reduce": ONCE,
    },
    # half of the tokens in every region
    "context2_tensor2": {
        "tensor all_reduce": (REGIONS + 2 * M, (REGIONS * X + M * LOSS) // 2),
        "context all_gather": (M * L, M * L * X // 2),
        "context reduce_scatter": (M * L, M * L * X),
        "replicate all_reduce": (1, PART),
        "world all_reduce": ONCE,
    },
    # each stage's gradients among its replicas
    "ddp_pipeline2": {
        "messages send": (M, M * X),
        "messages receive": (M, M * X),
        "messages all_reduce": (1, TIE),
        "replicate all_reduce": (1, TIE + F * T * C + L // 2 * BLOCK),
        "world all_reduce": ONCE,
    },
}
ROUTED = {"experts": 4, "choices": 2, "width": 32, "hidden": 16, "layers": 2, "vocab_size": V}


def counted(worker: Worker, model: str, config: dict[str, int], strategies: list[str]) -> dict[str, dict[str, Any]]:
    """Of the second step under each strategy: "axis kind" -> (how often, bytes)."""
    return {strategy: _counted(worker, model, config, strategy) for strategy in strategies}


def _counted(worker: Worker, model: str, config: dict[str, int], strategy: str) -> dict[str, Any]:
    entry, mesh = find(model), build_mesh(parse_strategy(strategy), worker.rank, worker.device)
    sizes = configure(entry, "tiny", config)
    engine = build_engine(entry, sizes, mesh, OptimizerOptions(), 1.0, seed=0, tokens=T)
    step = Step(engine.model, engine.solver, lambda _: 1e-3)
    own = slice(mesh.data_rank * M, (mesh.data_rank + 1) * M)
    first, second = trial_batches(entry, sizes, "", mesh.layout.data * M)[:2]
    step(0, first[own], False, Clock())  # what is lazy is done, and stages have told each other what has a gradient
    with Traffic() as traffic:
        step(1, second[own], False, Clock())
    names, found = axes(mesh), dict[str, Counter[str]]()
    for said in traffic.said:
        key = f"{names.get(said.group, 'messages')} {said.kind}"
        found.setdefault(key, Counter()).update(times=1, bytes=said.bytes)
    return {key: (count["times"], count["bytes"]) for key, count in found.items()}


def axes(mesh: Mesh) -> dict[str, str]:
    """Name of a process group -> the axis that it is along."""
    groups = {axis: getattr(mesh.axes, axis).group for axis in ("data", "expert", "context")}
    groups |= {axis: mesh.group(axis) for axis in ("pipeline", "replicate", "shard", "tensor")}
    groups["world"] = dist.group.WORLD
    return {group.group_name: axis for axis, group in groups.items() if group is not None}


@pytest.fixture(scope="module")
def two(pool: Pool) -> list[dict[str, dict[str, Any]]]:
    payload = {"model": "gpt2", "config": CONFIG, "strategies": list(TWO)}
    return pool.run(f"{__file__}:counted", 2, payload, deadline=200)


@pytest.fixture(scope="module")
def four(pool: Pool) -> list[dict[str, dict[str, Any]]]:
    payload = {"model": "gpt2", "config": CONFIG, "strategies": list(FOUR)}
    return pool.run(f"{__file__}:counted", 4, payload, deadline=200)


@pytest.mark.parametrize("strategy", TWO)
def test_what_two_ranks_say_is_the_formula(strategy: str, two: list[dict[str, dict[str, Any]]]) -> None:
    for rank in two:
        kinds: dict[str, Counter[str]] = {}
        for key, (times, size) in rank[strategy].items():
            kinds.setdefault(key.split()[1], Counter()).update(times=times, bytes=size)
        assert {kind: (found["times"], found["bytes"]) for kind, found in kinds.items()} == TWO[strategy]


@pytest.mark.parametrize("strategy", FOUR)
def test_what_four_ranks_say_is_the_formula_of_each_axis(strategy: str, four: list[dict[str, dict[str, Any]]]) -> None:
    ranks = four[:2] if "pipeline" in strategy else four  # of a pipeline the ranks of the first stage
    for rank in ranks:
        assert {key: tuple(found) for key, found in rank[strategy].items()} == FOUR[strategy]


def test_tokens_travel_to_experts_and_back(ranks: Callable[..., list[Any]]) -> None:
    found = [rank["expert2"] for rank in ranks(counted, 2, model="mixtral", config=ROUTED, strategies=["expert2"])]
    experts, choices, width = (ROUTED[name] for name in ("experts", "choices", "width"))
    rows = F * B * T * choices * width  # each token once for each of its experts
    each = 8 * experts + 4 * rows  # the counts; rows go and come, and their gradients
    times = {rank["world all_to_all"][0] for rank in found}
    assert times == {M * ROUTED["layers"] * 5}
    # a rank's own share depends on where its tokens go; together they send every row four times
    assert sum(rank["world all_to_all"][1] for rank in found) == 2 * M * ROUTED["layers"] * each
    # the imbalance: probabilities and choices of all experts, forward and backward
    assert {tuple(rank["data all_reduce"]) for rank in found} == {(2 * M, 2 * M * F * 2 * experts)}


def buckets(worker: Worker) -> dict[str, Any]:
    replicate.BUCKET_BYTES = P // 4
    return counted(worker, "gpt2", CONFIG, ["ddp"])["ddp"]


def test_gradients_that_fill_several_buckets_are_reduced_in_as_many(ranks: Callable[..., list[Any]]) -> None:
    for found in ranks(buckets, 2):
        times, size = found["world all_reduce"]
        assert size == P + SCALARS and 4 + 1 <= times <= 8 + 1


def unknown(worker: Worker) -> str:
    with Traffic():
        try:
            dist.reduce(torch.zeros(1), 0)
        except RuntimeError as error:
            return str(error)
    return ""


def test_a_collective_that_is_not_known_is_no_silence(ranks: Callable[..., list[Any]]) -> None:
    assert all("c10d::reduce_ is a collective that is not counted yet" in found for found in ranks(unknown, 2))
