"""Does a layout change the result? A sharded model against one process, on the same batches and micro-batches.

Gradients are measured against the model's largest gradient, and weights after SGD with momentum: AdamW divides a
gradient by its own size, which hides a wrong scale and blows up a difference at a true zero (an attention's key bias).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor

from ..models.entry import Entry
from .clock import Clock
from .gradients import clip_factor
from .layout import Layout
from .mesh import Mesh, build_mesh
from .optimizers import ShardedOptimizer, build_rule, decay_groups
from .options import OptimizerOptions
from .parallelize import build_seeded, parallelize
from .parts import local
from .step import Step
from .terms import Batch
from .world import Worker

SGD = OptimizerOptions(name="sgd", lr=0.5, momentum=0.9, weight_decay=0.0)
STEPS = 5  # of SGD with momentum
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


@dataclass(frozen=True)
class Findings:
    """What one trajectory gave: whole tensors by name, in fp32 on the CPU."""

    losses: list[float]
    gradients: dict[str, Tensor]  # of the mean objective at the first step, before clipping
    weights: dict[str, Tensor]  # after the steps of SGD with momentum
    updated: dict[str, Tensor]  # after one update of the job's own optimizer from prescribed gradients


@dataclass(frozen=True)
class Differences:
    """Sharded minus one process."""

    loss: float  # largest over the steps
    gradient: float  # largest, relative to the model's largest gradient
    weight: float  # largest
    update: float  # largest, after one update of the job's own optimizer from identical gradients


def compare(worker: Worker, trial: Trial, layout: Layout, batches: Sequence[Sequence[Batch]]) -> Differences | None:
    """Run a trial under a layout and, on rank 0, in one process. Collective; the answer stands on rank 0.

    Args:
        batches: for each step all micro-batches, data rank by data rank.
    """
    mesh = build_mesh(layout, worker.rank, worker.device)
    share = slice(mesh.data_rank * trial.micro_batches, (mesh.data_rank + 1) * trial.micro_batches)
    found = _sharded(trial, mesh, [step[share] for step in batches])
    return None if worker.rank else _differences(found, _alone(trial, batches))


def _sharded(trial: Trial, mesh: Mesh, batches: Sequence[Sequence[Batch]]) -> Findings:
    """The trajectory of the trainer: a few steps of SGD with momentum, then one update of the job's own optimizer."""
    sharded = parallelize(trial.entry, trial.config, mesh, seed=trial.seed, tokens=trial.tokens)
    prescribed = {name: prescribe(local(p.detach())) for name, p in sharded.parameters.items()}
    step = Step(sharded, ShardedOptimizer(SGD, sharded.parameters), lambda _: SGD.lr, CLIP)
    losses, gradients = [], {}
    for index, micro_batches in enumerate(batches):
        outcome = step(index, micro_batches, False, Clock())
        losses.append(outcome.loss)
        if index == 0:
            unclipped = 1 / clip_factor(outcome.grad_norm, CLIP)
            gradients = _whole(
                {n: p.grad * unclipped for n, p in sharded.parameters.items() if p.grad is not None}, mesh
            )
    weights = _whole(sharded.parameters, mesh)
    own = ShardedOptimizer(trial.optimizer, sharded.parameters)
    for name, parameter in sharded.parameters.items():
        parameter.grad = torch.zeros_like(parameter)
        local(parameter.grad).copy_(prescribed[name])
    own.step(trial.optimizer.lr)
    return Findings(losses, gradients, weights, _whole(sharded.parameters, mesh))


def _alone(trial: Trial, batches: Sequence[Sequence[Batch]]) -> Findings:
    """The same trajectory as a plain loop of torch, which shares no code with the trainer but the model."""
    program = build_seeded(trial.entry, trial.config, trial.seed)
    parameters = dict(program.named_parameters())
    prescribed = {name: prescribe(p.detach()) for name, p in parameters.items()}
    rule = torch.optim.SGD(parameters.values(), lr=SGD.lr, momentum=SGD.momentum)
    losses, gradients = [], {}
    for index, micro_batches in enumerate(batches):
        rule.zero_grad()
        total, count = 0.0, 0.0
        for batch in micro_batches:
            value, items = program(batch)["loss"]
            value.backward()
            total, count = total + value.item(), count + float(items)
        for parameter in parameters.values():
            parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad / count
        if index == 0:
            gradients = _copies({name: p.grad for name, p in parameters.items() if p.grad is not None})
        torch.nn.utils.clip_grad_norm_(parameters.values(), CLIP)
        rule.step()
        losses.append(total / count)
    weights = _copies(parameters)
    for name, parameter in parameters.items():
        parameter.grad = prescribed[name]
    build_rule(trial.optimizer, decay_groups(trial.optimizer, parameters)).step()
    return Findings(losses, gradients, weights, _copies(parameters))


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


def _differences(found: Findings, alone: Findings) -> Differences:
    """How far one trajectory is from the other; infinite where a tensor is missing on one side."""
    largest = max(x.abs().max().item() for x in alone.gradients.values() if x.numel())
    return Differences(
        loss=_worst([abs(a - b) for a, b in zip(found.losses, alone.losses, strict=True)]),
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
