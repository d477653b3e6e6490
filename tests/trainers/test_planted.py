"""Are networks that run beside their Program, or unequally often, found? Each fault is planted once and seen.

What silently breaks elsewhere: a network called around its wrapper is not reduced; weights gathered by hand have
gradients of one rank; ranks that run a network unequally often mix up their collectives (facts measured on torch 2.13).
"""

import sys
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
import torch.distributed as dist
from shardwright.cluster.call import RankFailure
from shardwright.jobs.verify import trial_batches, verify
from shardwright.models.entry import Entry, Unit
from shardwright.trainers.layout import parse_strategy
from shardwright.trainers.mesh import build_mesh
from shardwright.trainers.parallelize import parallelize
from shardwright.trainers.sharded import Sharded
from shardwright.trainers.strangers import check_held
from shardwright.trainers.world import Worker
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.func import functional_call
from torch.nn import functional as F

TOLERANCE = 1e-5


class Classifier(nn.Module):
    """Two blocks around a residual stream, and how often this rank runs the first one."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([nn.Linear(64, 64), nn.Linear(64, 64)])
        self.head = nn.Linear(64, 10)

    def forward(self, batch: Mapping[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
        x = batch["image"].flatten(1)
        for index, block in enumerate(self.blocks):
            for _ in range(self.times(index)):
                x = x + torch.tanh(block(x))
        count = torch.tensor(float(len(x)))
        return {"loss": (F.cross_entropy(self.head(x), batch["label"], reduction="sum"), count)}

    def times(self, index: int) -> int:
        return 1


class Uneven(Classifier):
    """The second rank runs the first block once more."""

    def times(self, index: int) -> int:
        return 2 if index == 0 and dist.get_rank() == 1 else 1


class Idle(Classifier):
    """The second rank runs the first block once more, and makes nothing of what comes out."""

    def forward(self, batch: Mapping[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
        if dist.get_rank() == 1:
            self.blocks[0](batch["image"].flatten(1))
        return super().forward(batch)


class Unregistered(Classifier):
    """A network in a plain list: torch does not see it as a part."""

    def __init__(self) -> None:
        super().__init__()
        self.beside = [nn.Linear(64, 64)]

    def forward(self, batch: Mapping[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
        image = torch.tanh(self.beside[0](batch["image"].flatten(1)))
        return super().forward({**batch, "image": image})


def units(config: None) -> tuple[Unit, ...]:
    return Unit("blocks.0", 4160), Unit("blocks.1", 4160), Unit("head", 650)


def entry(build: Callable[..., Any], **fields: Any) -> Entry:
    return Entry(build=build, name=build.__name__.lower(), dataset="digits", units=units, **fields)


TEACHER = nn.Linear(64, 10)


def taught(network: nn.Module, batch: Mapping[str, Tensor]) -> tuple[Tensor, int]:
    """A loss that calls a second network with weights of its own, which is no part of what build returned."""
    x = batch["image"].flatten(1)
    return F.cross_entropy(network(x) + TEACHER(x), batch["label"], reduction="sum"), len(x)


ENTRIES = {
    "plain": entry(Classifier),
    "whole": Entry(build=Classifier, name="whole", dataset="digits"),
    "uneven": entry(Uneven),
    "idle": entry(Idle),
    "unregistered": entry(Unregistered),
    "closure": Entry(build=lambda: nn.Linear(64, 10), name="closure", loss=taught, dataset="digits"),
}
PLAIN, WHOLE, UNEVEN, IDLE, UNREGISTERED, CLOSURE = ENTRIES.values()


def beside(self: Sharded, batch: Mapping[str, Tensor], told: Mapping[str, str]) -> Any:
    """The Program's forward as a plain function, around whatever wraps it."""
    return type(self.program).forward(self.program, batch, **told)


def gathered(self: Sharded, batch: Mapping[str, Tensor], told: Mapping[str, str]) -> Any:
    """A functional call of the objective with weights gathered by hand."""
    wholes = {n: p.full_tensor() if isinstance(p, DTensor) else p for n, p in self.program.named_parameters()}
    plain = Classifier()
    return functional_call(plain, wholes, (batch,), dict(told))


WAYS = {"beside": beside, "gathered": gathered}


def differences(worker: Worker, name: str, strategy: str, way: str = "") -> dict[str, float] | None:
    """What verify finds of an entry of this file, its objective called in another way than through the Program."""
    sys.modules["planted"] = sys.modules[__name__]
    if way:
        from shardwright.trainers import sharded
        from shardwright.trainers.terms import Passed, objective

        def accumulate(self: Sharded, batches: Any, told: Any, weights: Any) -> Passed:
            passed = Passed()
            for index, batch in enumerate(batches):
                self.sync.prepare(last=index == len(batches) - 1)
                result = sharded.take_apart(WAYS[way](self, batch, told), weights)
                objective(result.terms, weights).backward()
                passed.add(index, result)
            return passed

        Sharded._accumulate = accumulate
    return verify(worker, f"planted:{name}", "", {}, "", strategy, {})


def caught(ranks: Callable[..., list[Any]], **asked: Any) -> str:
    """How a fault shows: "" where it does not."""
    try:
        found = ranks(differences, parse_strategy(asked["strategy"]).world_size, deadline=60, **asked)[0]
    except RankFailure as failure:
        return str(failure)
    return "different" if any(value > TOLERANCE for value in found.values()) else ""


@pytest.mark.parametrize("strategy", ["ddp", "zero3"])
def test_the_entry_itself_is_right(ranks: Callable[..., list[Any]], strategy: str) -> None:
    assert caught(ranks, name="PLAIN", strategy=strategy) == ""


@pytest.mark.parametrize("way", WAYS)
def test_replicas_reduce_what_is_called_beside_the_program(ranks: Callable[..., list[Any]], way: str) -> None:
    """They hang on the parameters, not on a wrapper's forward, so there is nothing to get around."""
    assert caught(ranks, name="PLAIN", strategy="ddp", way=way) == ""


def test_an_objective_beside_the_program_is_found_under_zero(ranks: Callable[..., list[Any]]) -> None:
    """Where the Program is one unit, its weights are gathered by its own forward alone."""
    assert "mixed torch.Tensor and DTensor" in caught(ranks, name="WHOLE", strategy="zero3", way="beside")


@pytest.mark.parametrize("strategy", ["zero2", "zero3"])
def test_an_objective_of_gathered_weights_is_found_under_zero(ranks: Callable[..., list[Any]], strategy: str) -> None:
    assert caught(ranks, name="PLAIN", strategy=strategy, way="gathered") == "different"


@pytest.mark.parametrize("name", ["UNREGISTERED", "CLOSURE"])
@pytest.mark.parametrize("strategy", ["ddp", "zero3"])
def test_a_network_beside_the_program_is_refused(ranks: Callable[..., list[Any]], strategy: str, name: str) -> None:
    """It would never train, in one process as little as in many: a comparison alone sees nothing."""
    found = caught(ranks, name=name, strategy=strategy)
    assert "the objective depends on 2 parameters that the Program does not hold" in found


def test_tensors_made_on_the_way_are_no_strangers() -> None:
    program = nn.Linear(3, 1)
    x = torch.randn(2, 3, requires_grad=True)
    (slope,) = torch.autograd.grad(program(x).sum(), x, create_graph=True)
    check_held(slope.square().sum() + program(x).sum(), program)
    check_held(torch.zeros(()), program)
    with pytest.raises(ValueError, match=r"depends on 1 parameters .* \(of shapes \(4,\)\): make their network"):
        check_held(program(x).sum() * nn.Parameter(torch.ones(4)).sum(), program)


def test_a_network_run_unequally_often_is_found(ranks: Callable[..., list[Any]]) -> None:
    assert caught(ranks, name="UNEVEN", strategy="ddp") == "different"


def debugged(worker: Worker, name: str, strategy: str) -> str:
    """A step with train.debug."""
    made, layout = ENTRIES[name], parse_strategy(strategy)
    mesh = build_mesh(layout, worker.rank, worker.device)
    sharded = parallelize(made, None, mesh, seed=0, tokens=0, debug=True)
    sharded.run(trial_batches(made, None, "", 4)[0][2 * mesh.data_rank : 2 * mesh.data_rank + 2])
    return "agreed"


@pytest.mark.parametrize("name", ["uneven", "idle"])
@pytest.mark.parametrize("strategy", ["ddp", "zero3"])
def test_debugging_names_who_runs_a_network_more_often(
    ranks: Callable[..., list[Any]], strategy: str, name: str
) -> None:
    """Even where nothing is made of it: under ZeRO-3 the ranks would mix up their collectives, or hang."""
    with pytest.raises(RankFailure, match="every rank must run the same units equally often and in the same order"):
        ranks(debugged, 2, deadline=60, name=name, strategy=strategy)


@pytest.mark.parametrize("strategy", ["ddp", "zero3"])
def test_debugging_lets_even_ranks_go_on(ranks: Callable[..., list[Any]], strategy: str) -> None:
    assert ranks(debugged, 2, name="plain", strategy=strategy) == ["agreed"] * 2
