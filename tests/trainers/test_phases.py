"""Do networks that train in turn each keep to their turn: what moves, how updates are counted, where a run goes on?"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from shardwright.models.catalog import configure, find
from shardwright.models.entry import Entry, Phase
from shardwright.trainers.clock import Clock
from shardwright.trainers.data.dataset import open_data
from shardwright.trainers.data.loader import Loader
from shardwright.trainers.data.order import Order
from shardwright.trainers.layout import Layout, parse_strategy
from shardwright.trainers.loop import train
from shardwright.trainers.mesh import build_mesh
from shardwright.trainers.optimizers import ShardedOptimizer
from shardwright.trainers.options import (
    CheckpointOptions,
    DataOptions,
    EvalOptions,
    OptimizerOptions,
    ScheduleOptions,
    TrainOptions,
)
from shardwright.trainers.parallelize import build_seeded, parallelize
from shardwright.trainers.phases import Turns, check_phases, trains
from shardwright.trainers.session import Session, Training
from shardwright.trainers.solvers import Descent
from shardwright.trainers.step import Step
from shardwright.trainers.world import Worker
from torch import Tensor, nn

CYCLE = (Phase("critic", ("critic.*",), times=3), Phase("generator", ("generator.*",), lr=0.5))
SIZES = {"width": 4, "latent": 4}
ADAMW = OptimizerOptions(lr=1e-2, weight_decay=0.1, betas=(0.5, 0.9))
SGD = OptimizerOptions(name="sgd", lr=1e-2, momentum=0.9, weight_decay=0.1)
OPTIMIZERS = {"adamw": ADAMW, "sgd": SGD}
BATCH = 4


def test_a_step_belongs_to_one_phase() -> None:
    turns = Turns(CYCLE)
    assert [turns.at(step).name for step in range(9)] == (["critic"] * 3 + ["generator"]) * 2 + ["critic"]
    assert Turns(()).at(7) == Phase("")


@pytest.mark.parametrize("steps", range(10))
def test_updates_are_counted_from_the_step_alone(steps: int) -> None:
    both = (*CYCLE, Phase("together"), Phase("collect", ()))
    turns = Turns(both)
    for name in ("critic.score.bias", "generator.project.bias", "other"):
        assert turns.updates(name, steps) == sum(trains(turns.at(step), name) for step in range(steps))


@pytest.mark.parametrize(
    ("phases", "message"),
    [
        ((Phase("a", ("*",)), Phase("a", ())), "the phases a, a must have different names"),
        ((Phase("a", times=0),), "the phase 'a' has times=0"),
        ((Phase("a", ("critc.*",)), Phase("b")), r"'critc.\*', which fits no parameter \(critic.weight, critic.bias"),
        ((Phase("a", ("critic.*",)),), r"no phase trains generator.weight, generator.bias \(2 parameters\)"),
    ],
)
def test_phases_that_cannot_be_meant_are_refused(phases: tuple[Phase, ...], message: str) -> None:
    made = {"critic": nn.Linear(2, 2), "generator": nn.Linear(2, 2), "frozen": nn.Linear(2, 2).requires_grad_(False)}
    with pytest.raises(ValueError, match=message):
        check_phases(phases, dict(nn.ModuleDict(made).named_parameters()))


def test_phases_that_can_be_meant_are_not() -> None:
    parameters = dict(nn.ModuleDict({"critic": nn.Linear(2, 2), "generator": nn.Linear(2, 2)}).named_parameters())
    check_phases((), parameters)
    check_phases((*CYCLE, Phase("collect", ())), parameters)


def gan() -> Entry:
    """WGAN-GP with a shorter cycle, in which the generator's learning rate is half of the critic's."""
    return replace(find("wgan_gp"), phases=CYCLE)


def batches(rank: int, data: int, steps: int) -> list[list[dict[str, Tensor]]]:
    """A rank's micro-batches of each step."""
    source = open_data(DataOptions(name="digits"), "samples").train
    loader = Loader(source, Order(len(source), 0), 0, BATCH, rank, data, BATCH // data)
    return [loader.load(step) for step in range(steps)]


def moved(worker: Worker, strategy: str, optimizer: str) -> list[list[str]]:
    """The networks that each of nine steps changed, on any rank."""
    entry, layout = gan(), parse_strategy(strategy)
    mesh = build_mesh(layout, worker.rank, worker.device)
    sharded = parallelize(entry, configure(entry, "", SIZES), mesh, seed=0, tokens=0)
    solver = Descent(ShardedOptimizer(OPTIMIZERS[optimizer], sharded.parameters), clip=1.0)
    step, found = Step(sharded, solver, lambda _: 1e-2), []
    for index, each in enumerate(batches(mesh.data_rank, layout.data, 9)):
        before = {name: leaf.clone() for name, leaf in solver.optimizer.leaves.items()}
        step(index, each, False, Clock())
        changed = {name for name, leaf in solver.optimizer.leaves.items() if not torch.equal(leaf, before[name])}
        found.append(sorted({name.partition(".")[0] for name in changed}))
    return found


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize("strategy", ["ddp", "zero3", "tensor2"])
def test_only_the_network_whose_turn_it_is_moves(
    ranks: Callable[..., list[Any]], strategy: str, optimizer: str
) -> None:
    """Not by momentum, nor by decay, nor by the gradient that its turn left behind."""
    for found in ranks(moved, 2, strategy=strategy, optimizer=optimizer):
        assert found == ([["critic"]] * 3 + [["generator"]]) * 2 + [["critic"]]


def plainly(steps: int) -> dict[str, Tensor]:
    """The weights of a plain loop with an optimizer for each network."""
    entry = gan()
    program = build_seeded(entry, configure(entry, "", SIZES), 0)
    rules = {}
    for phase in CYCLE:
        named = list(program.get_submodule(phase.name).parameters())
        groups = [
            {"params": [p for p in named if p.ndim >= 2], "weight_decay": ADAMW.weight_decay},
            {"params": [p for p in named if p.ndim < 2], "weight_decay": 0.0},
        ]
        rules[phase.name] = torch.optim.AdamW(groups, lr=ADAMW.lr * phase.lr, betas=ADAMW.betas, eps=ADAMW.eps)
    for index, (batch,) in enumerate(batches(0, 1, steps)):
        phase = Turns(CYCLE).at(index).name
        program.zero_grad()
        total, count = program(batch, phase=phase)["loss"]
        (total / count).backward()
        rules[phase].step()
    return {name: p.detach() for name, p in program.named_parameters()}


def as_plainly(worker: Worker, steps: int) -> float:
    """The largest difference of a weight from the plain loop's, relative to how far weights went."""
    entry = gan()
    config = configure(entry, "", SIZES)
    sharded = parallelize(entry, config, build_mesh(Layout(), 0, worker.device), seed=0, tokens=0)
    step = Step(sharded, Descent(ShardedOptimizer(ADAMW, sharded.parameters), clip=0.0), lambda _: ADAMW.lr)
    for index, each in enumerate(batches(0, 1, steps)):
        step(index, each, False, Clock())
    expected, first = plainly(steps), dict(build_seeded(entry, config, 0).named_parameters())
    way = max(float((x - first[name]).abs().max()) for name, x in expected.items())
    assert way > 0.01
    return max(float((p - expected[name]).abs().max()) for name, p in sharded.parameters.items()) / way


def test_updates_are_those_of_an_optimizer_for_each_network(ranks: Callable[..., list[Any]]) -> None:
    """AdamW's bias corrections count the updates of each parameter."""
    assert ranks(as_plainly, 1, steps=10)[0] < 1e-5


def trained(worker: Worker, strategy: str, folder: str, stop_after: int = 0) -> dict[str, Any]:
    """Train ten steps, or go on to the tenth: the phase, loss and norm of each step."""
    events: list[tuple[str, dict[str, Any]]] = []

    def tell(kind: str, /, **fields: Any) -> None:
        events.append((kind, fields))

    def stop() -> str:
        done = max((fields["step"] for kind, fields in events if kind == "step"), default=0)
        return "stop" if stop_after and done + 1 >= stop_after and worker.rank == 0 else ""

    entry = gan()
    asked = Training(
        entry=entry,
        config=configure(entry, "", SIZES),
        layout=parse_strategy(strategy),
        data=open_data(DataOptions(name="digits"), "samples"),
        train=TrainOptions(steps=10, global_batch=BATCH, micro_batch=BATCH // 2),
        optimizer=ADAMW,
        schedule=ScheduleOptions(warmup=2),
        checkpoint=CheckpointOptions(),
        eval=EvalOptions(batches=1),
        seed=3,
        snapshot_every=0,
        checkpoints=Path(folder) / "checkpoints",
        traces=Path(folder) / "trace",
        first_guess=2,
    )
    train(Session(replace(worker, tell=tell, stop=stop, snapshots=None), asked))
    steps = [fields for kind, fields in events if kind == "step"]
    return {
        "resumed": next(fields["source"] for kind, fields in events if kind == "resume"),
        "steps": [[fields["step"], fields["turn"], fields["loss"], fields["grad_norm"]] for fields in steps],
        "eval": [fields["loss"] for kind, fields in events if kind == "eval"],
    }


@pytest.mark.parametrize(("strategy", "stop_after"), [("ddp", 2), ("zero3", 5), ("tensor2", 4)])
def test_a_run_goes_on_in_the_middle_of_a_cycle(
    ranks: Callable[..., list[Any]], tmp_path: Path, strategy: str, stop_after: int
) -> None:
    """Bit for bit, which it would not be if an update were counted for a network that had not its turn."""
    whole = ranks(trained, 2, strategy=strategy, folder=str(tmp_path / "twin"))[0]
    assert [turn for _, turn, *_ in whole["steps"]] == [Turns(CYCLE).at(step).name for step in range(10)]
    first = ranks(trained, 2, strategy=strategy, folder=str(tmp_path / "run"), stop_after=stop_after)[0]
    second = ranks(trained, 2, strategy=strategy, folder=str(tmp_path / "run"))[0]
    assert second["resumed"] == "checkpoint"
    assert len(first["steps"]) == stop_after
    assert first["steps"] + second["steps"] == whole["steps"]
    assert second["eval"] == whole["eval"]
