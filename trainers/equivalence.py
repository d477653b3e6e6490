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
from .optimizers import ShardedOptimizer
from .options import OptimizerOptions
from .parallelize import parallelize
from .parts import local
from .step import Step
from .terms import Batch
from .world import Worker

SGD = OptimizerOptions(name="sgd", lr=0.05, momentum=0.9, weight_decay=0.0)
STEPS = 5  # of SGD with momentum
CLIP = 0.5  # below the norms seen, so that clipping takes part


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
    found = _follow(trial, mesh, [step[share] for step in batches])
    if worker.rank:
        return None
    return _differences(found, _follow(trial, Mesh(Layout(), 0, worker.device, None), batches))


def _follow(trial: Trial, mesh: Mesh, batches: Sequence[Sequence[Batch]]) -> Findings:
    """The trajectory of a few steps of SGD with momentum, then one update of the job's own optimizer."""
    sharded = parallelize(trial.entry, trial.config, mesh, seed=trial.seed, tokens=trial.tokens)
    prescribed = {name: local(p.detach()).clone() + 0.01 for name, p in sharded.parameters.items()}
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


def _whole(tensors: Mapping[str, Tensor], mesh: Mesh) -> dict[str, Tensor]:
    """Copies of whole tensors by name, those of every pipeline stage. Collective."""
    whole = {
        name: (x.full_tensor() if isinstance(x, DTensor) else x).detach().float().cpu().clone()
        for name, x in tensors.items()
    }
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
