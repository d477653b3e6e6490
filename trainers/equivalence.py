"""Does a layout change the result? A sharded model against one process, on the same batches and micro-batches.

Gradients are measured against the model's largest gradient, and weights after SGD with momentum: AdamW divides a
gradient by its own size, which hides a wrong scale and blows up a difference at a true zero (an attention's key bias).
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from ..models.entry import Entry, Follow, Phase, counting, followers
from .clock import Clock
from .engine import Engine, Model, build_engine
from .follow import Following
from .gradients import clip_factor
from .groups import freeze, read_groups
from .layout import Layout
from .mesh import Mesh, build_mesh
from .optimizers import build_rule, decay_groups
from .options import OptimizerOptions
from .parallelize import build_seeded
from .phases import Turns, trains
from .solvers import Evaluate, Evaluation, Solver
from .state import persistent_buffers
from .step import Step
from .strangers import check_held
from .streams import Streams
from .terms import Batch
from .world import Worker

SGD = OptimizerOptions(name="sgd", lr=0.5, momentum=0.9, weight_decay=0.0)
STEPS = 5  # of SGD with momentum, or as many as the entry's phases take in turn
CLIP = 0.1  # below the norms seen, so that clipping takes part


@dataclass(frozen=True)
class Trial:
    """What is compared: a model, the portions of its batches, and the job's own optimizer."""

    entry: Entry
    config: Any
    optimizer: OptimizerOptions
    micro_batches: int  # of one data rank in one step
    tokens: int  # of one sample
    seed: int = 0
    dtype: str = "fp32"  # of the sharded model's forward and backward; one process computes in fp32

    @property
    def descent(self) -> OptimizerOptions:
        """SGD with momentum, in the groups of the job's own optimizer."""
        return replace(SGD, groups=self.optimizer.groups)

    @property
    def follows(self) -> tuple[Follow, ...]:
        """What follows what; every second update at least, so that a few steps see what seldom happens."""
        return tuple(replace(one, every=min(one.every, 2)) for one in followers(self.entry, self.config))


@dataclass(frozen=True)
class Findings:
    """What one trajectory gave: whole tensors by name, in fp32 on the CPU."""

    losses: list[float]
    gradients: dict[str, Tensor]  # of the mean objective at each phase's first step, before clipping
    weights: dict[str, Tensor]  # after the steps of SGD with momentum; buffers; rows of streams
    updated: dict[str, Tensor]  # after one update of the job's own optimizer from prescribed gradients


@dataclass(frozen=True)
class Differences:
    """Sharded minus one process."""

    loss: float  # largest over the steps; in other dtypes than fp32 relative to the loss, where that exceeds one
    gradient: float  # largest, relative to the model's largest gradient
    weight: float  # largest
    update: float  # largest, after one update of the job's own optimizer from identical gradients


def steps_of(entry: Entry) -> int:
    """Steps of a trial: every phase comes at least once."""
    return max(STEPS, len(Turns(entry.phases).cycle))


def compare(
    worker: Worker,
    trial: Trial,
    layout: Layout,
    batches: Sequence[Sequence[Batch]],
    reference: Callable[[], Findings] | None = None,
) -> Differences | None:
    """Run a trial under a layout and, on rank 0, in one process. Collective; the answer stands on rank 0.

    Args:
        batches: for each step all micro-batches, data rank by data rank.
        reference: gives what one process found, where it is known from a layout of as many data ranks.
    """
    mesh = build_mesh(layout, worker.rank, worker.device)
    share = slice(mesh.data_rank * trial.micro_batches, (mesh.data_rank + 1) * trial.micro_batches)
    found = _sharded(trial, mesh, [step[share] for step in batches])
    if worker.rank:
        return None
    return _differences(found, reference() if reference else alone(trial, batches, layout.data), trial.dtype)


def merged(step: Sequence[Batch], data: int) -> list[Batch]:
    """What one process sees as micro-batch i: the i-th ones of all data ranks, in the order of the ranks.

    So an objective that couples the samples of a micro-batch over the data ranks couples the same ones.
    """
    each = len(step) // data
    ranks = [step[rank * each : (rank + 1) * each] for rank in range(data)]
    return [
        {name: torch.cat([part[name] for part in parts]) for name in parts[0]} for parts in zip(*ranks, strict=True)
    ]


def _sharded(trial: Trial, mesh: Mesh, batches: Sequence[Sequence[Batch]]) -> Findings:
    """The trajectory of the trainer: a few steps of SGD with momentum; and one update of the job's own optimizer."""
    engine, streams = _begin(trial, mesh, trial.descent, batches[0])
    watched = Watched(engine.model, engine.solver)
    following = Following(trial.follows, engine.model.parameters, len(batches))
    step = Step(engine.model, watched, lambda _: SGD.lr, streams, following)
    losses = [step(index, each, False, Clock(), fresh=index == 0).loss for index, each in enumerate(batches)]
    weights = _whole({**engine.model.weights(), **persistent_buffers(engine.model.program), **streams.tensors()}, mesh)
    own, blank = _begin(trial, mesh, trial.optimizer, batches[0])
    factor = Turns(trial.entry.phases).at(0).lr
    once = Step(own.model, Prescribed(own.model, own.solver), lambda _: trial.optimizer.lr / factor, blank)
    once(0, batches[0], False, Clock(), fresh=True)
    return Findings(losses, _whole(watched.gradients, mesh), weights, _whole(own.model.weights(), mesh))


def _begin(trial: Trial, mesh: Mesh, optimizer: OptimizerOptions, first: Sequence[Batch]) -> tuple[Engine, Streams]:
    building = {"seed": trial.seed, "tokens": trial.tokens, "dtype": trial.dtype}
    engine = build_engine(trial.entry, trial.config, mesh, optimizer, CLIP, **building)
    slots = sum(next(iter(batch.values())).shape[0] for batch in first)
    return engine, Streams(trial.entry, trial.config, engine.model.program, mesh, slots)


class Watched:
    """A solver that keeps the gradients of each parameter's first step, before clipping."""

    def __init__(self, model: Model, solver: Solver) -> None:
        self.model, self.solver, self.parameters = model, solver, solver.parameters
        self.state, self.set_updates = solver.state, solver.set_updates
        self.gradients: dict[str, Tensor] = {}

    def step(self, evaluate: Evaluate, lr: float, names: Iterable[str]) -> Evaluation:
        """What the solver does, and a look at what it evaluated."""
        names = list(names)

        def seen(clip: float = 0.0) -> Evaluation:
            found = evaluate(clip)
            new = self.model.gradients([name for name in names if name not in self.gradients])
            self.gradients |= {name: gradient / clip_factor(found.norm, clip) for name, gradient in new.items()}
            return found

        return self.solver.step(seen, lr, names)


class Prescribed(Watched):
    """A solver that is shown other gradients than the objective's: the same ones under every layout, bit for bit."""

    def step(self, evaluate: Evaluate, lr: float, names: Iterable[str]) -> Evaluation:
        """An update of everything, whatever the phase."""

        def shown(clip: float = 0.0) -> Evaluation:
            found = evaluate(0.0)
            self.model.prescribe(prescribe)
            return found

        return self.solver.step(shown, lr, list(self.parameters))


def alone(trial: Trial, batches: Sequence[Sequence[Batch]], data: int = 1) -> Findings:
    """The same trajectory as a plain loop of torch, which shares no code with the trainer but the model.

    Args:
        batches: for each step all micro-batches, data rank by data rank.
        data: number of data ranks.
    """
    batches = [merged(step, data) for step in batches]
    entry, turns = trial.entry, Turns(trial.entry.phases)
    program, parameters, trained = _built(trial)
    rule = torch.optim.SGD(decay_groups(trial.descent, trained), lr=SGD.lr, momentum=SGD.momentum)
    rows = _blank(trial, batches[0])
    losses: list[float] = []
    gradients: dict[str, Tensor] = {}
    for index, micro_batches in enumerate(batches):
        phase = turns.at(index)
        rule.zero_grad()
        loss = _pass(program, entry, phase, micro_batches, rows)
        for name, parameter in trained.items():
            if not trains(phase, name):
                parameter.grad = None
            elif parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        for group in rule.param_groups:
            group["lr"] = SGD.lr * phase.lr * group["factor"]
        moved = {name: p.grad for name, p in trained.items() if p.grad is not None}
        gradients |= _copies({name: x for name, x in moved.items() if name not in gradients})
        torch.nn.utils.clip_grad_norm_([trained[name] for name in moved], CLIP)
        rule.step()
        _follow(trial, parameters, index + 1, len(batches))
        losses.append(loss)
    weights = _copies({**parameters, **persistent_buffers(program), **_slots(rows, data)})
    return Findings(losses, gradients, weights, _updated(trial))


def _built(trial: Trial) -> tuple[nn.Module, dict[str, nn.Parameter], dict[str, nn.Parameter]]:
    """The whole Program, its parameters by name, and those of them that are trained."""
    program = build_seeded(trial.entry, trial.config, trial.seed)
    parameters = dict(program.named_parameters())
    freeze(read_groups(trial.optimizer.groups), parameters)
    return program, parameters, {name: p for name, p in parameters.items() if p.requires_grad}


def _updated(trial: Trial) -> dict[str, Tensor]:
    """The weights after one update of the job's own optimizer from prescribed gradients."""
    _, parameters, trained = _built(trial)
    for parameter in trained.values():
        parameter.grad = prescribe(parameter.detach())
    build_rule(trial.optimizer, decay_groups(trial.optimizer, trained)).step()
    return _copies(parameters)


def _pass(
    program: nn.Module, entry: Entry, phase: Phase, batches: Sequence[Batch], rows: dict[int, dict[str, Tensor]]
) -> float:
    """Forward and backward of a step's micro-batches: the objective, its gradients, and new rows for the old ones."""
    told = {"phase": phase.name} if phase.name else {}
    counts = dict.fromkeys(entry.objective, 0.0)
    sums = dict.fromkeys(entry.objective, 0.0)
    several = len(counts) > 1
    if several and (count_items := counting(entry)):
        for batch in batches:
            for name, count in count_items(batch).items():
                counts[name] += float(count)
    for index, batch in enumerate(batches):
        answer = program({**batch, **rows.get(index, {})}, **told)
        rows[index] = {name: row.detach() for name, row in answer.get("state", {}).items()}
        total = torch.zeros(())
        for name, weight in entry.objective.items():
            value, count = answer[name]
            total = total + weight * value / (counts[name] if several else 1.0)
            sums[name] += value.item()
            counts[name] += 0.0 if several else float(count)
        if total.requires_grad:
            check_held(total, program)
            total.backward()
    if not several:
        (count,) = counts.values()
        for parameter in program.parameters():
            if parameter.grad is not None:
                parameter.grad /= count
    return sum(weight * sums[name] / counts[name] for name, weight in entry.objective.items())


def _blank(trial: Trial, batches: Sequence[Batch]) -> dict[int, dict[str, Tensor]]:
    """Rows of zeros for each micro-batch."""
    streams = trial.entry.streams(trial.config) if trial.entry.streams else {}
    sizes = [next(iter(batch.values())).shape[0] for batch in batches]
    return {
        index: {name: torch.zeros(size, *one.shape, dtype=getattr(torch, one.dtype)) for name, one in streams.items()}
        for index, size in enumerate(sizes)
    }


def _slots(rows: Mapping[int, Mapping[str, Tensor]], data: int) -> dict[str, Tensor]:
    """ "stream.<name>" -> rows in the order of the slots: data rank by data rank, micro-batch by micro-batch."""
    parts = {index: {name: row.chunk(data) for name, row in held.items()} for index, held in sorted(rows.items())}
    return {
        f"stream.{name}": torch.cat([held[name][rank] for rank in range(data) for held in parts.values()])
        for name in rows[0]
    }


def _follow(trial: Trial, parameters: Mapping[str, nn.Parameter], updates: int, steps: int) -> None:
    for follow in trial.follows:
        for name, target in parameters.items():
            if name.startswith(f"{follow.target}.") and updates % follow.every == 0:
                decay = follow.decay(updates, steps) if callable(follow.decay) else follow.decay
                source = parameters[follow.source + name.removeprefix(follow.target)].detach()
                target.data = decay * target.data + (1 - decay) * source


def prescribe(weight: Tensor) -> Tensor:
    """A gradient that every layout can make of its own part of an initial weight, bit for bit; zero nowhere exactly."""
    return weight.clone() + 0.01


def _copies(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: x.detach().float().cpu().clone() for name, x in tensors.items()}


def _whole(tensors: Mapping[str, Tensor], mesh: Mesh) -> dict[str, Tensor]:
    """Copies of whole tensors by name, those of every pipeline stage. Collective."""
    whole = _copies({name: x.full_tensor() if isinstance(x, DTensor) else x for name, x in tensors.items()})
    if (group := mesh.group("pipeline")) is None:
        return whole
    stages: list[Any] = [None] * mesh.layout.pipeline
    dist.all_gather_object(stages, whole, group=group)
    return {name: tensor for stage in stages for name, tensor in stage.items()}


def _differences(found: Findings, alone: Findings, dtype: str = "fp32") -> Differences:
    """How far one trajectory is from the other; infinite where a tensor is missing on one side.

    A number of bf16 is off by a share of itself, and so is a loss.
    """
    largest = max(x.abs().max().item() for x in alone.gradients.values() if x.numel())
    units = [1.0 if dtype == "fp32" else max(1.0, abs(b)) for b in alone.losses]
    return Differences(
        loss=_worst([abs(a - b) / unit for a, b, unit in zip(found.losses, alone.losses, units, strict=True)]),
        gradient=_furthest(found.gradients, alone.gradients) / (largest or 1.0),
        weight=_furthest(found.weights, alone.weights),
        update=_furthest(found.updated, alone.updated),
    )


def _furthest(found: Mapping[str, Tensor], alone: Mapping[str, Tensor]) -> float:
    if found.keys() != alone.keys():
        return float("inf")
    return _worst([(found[name] - alone[name]).abs().max().item() for name in alone if alone[name].numel()])


def _worst(values: Sequence[float]) -> float:
    """The largest; a NaN counts as infinite, since no comparison would catch it."""
    return max((float("inf") if value != value else value for value in values), default=0.0)
