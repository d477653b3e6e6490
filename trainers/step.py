"""What happens in one optimizer step? Evaluations at the current weights, and a solver's change of the weights.

An evaluation is forward, backward and one small all-reduce. It carries the terms' sums and counts, each rank's share of
the squared gradient norm and the wish to stop; so every rank divides by the same count, clips by the same norm and
leaves at the same step.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from ..models.entry import Phase, counting
from ..models.program import Terms
from .clock import Clock
from .engine import Model
from .follow import Following
from .gradients import clip_factor
from .loss_scale import LossScale
from .phases import Turns, trains
from .solvers import Evaluation, Solver
from .streams import Streams
from .terms import Batch, Passed


@dataclass(frozen=True)
class Outcome:
    """What a step found, equal on every rank."""

    loss: float  # the objective
    terms: dict[str, float]  # mean of each named term over the global batch
    count: float  # items of the objective in the global batch (tokens, say)
    grad_norm: float  # of the mean objective's whole gradient, before clipping
    lr: float
    stop: bool  # some rank was asked to stop
    phase: str = ""
    skipped: bool = False  # the gradient was not finite in fp16, so nothing moved


class Step:
    """The step of one model and its solver."""

    def __init__(
        self,
        model: Model,
        solver: Solver,
        lr: Callable[[int], float],
        streams: Streams | None = None,
        following: Following | None = None,
        scale: LossScale | None = None,
    ) -> None:
        self.model, self.solver, self.lr = model, solver, lr
        self.streams, self.following, self.scale = streams, following, scale
        self.turns = Turns(model.entry.phases)
        self.totals = Totals(model)

    def __call__(
        self, step: int, micro_batches: Sequence[Batch], stop: bool, clock: Clock, fresh: bool = False
    ) -> Outcome:
        """Update the parameters from this rank's share of a global batch.

        Args:
            step: updates made before this one.
            stop: this rank was asked to stop after this step.
            fresh: every slot of the entry's streams begins anew.
        """
        phase = self.turns.at(step)
        if self.streams is not None:
            micro_batches = self.streams.hand_out(micro_batches, fresh)
        trained = [name for name in self.solver.parameters if trains(phase, name)]
        scale = None if self.scale is None else self.scale.value
        evaluate = Objective(self.model, self.totals, micro_batches, phase, trained, stop, clock, scale)
        lr = self.lr(step) * phase.lr
        with clock("optimizer"):
            found = self.solver.step(evaluate, lr, trained)
            if found.usable:
                self._move_on(step + 1, evaluate.states)
            if self.scale is not None and trained:
                self.scale.settle(found.usable, phase.name)
        stop, skipped = found.stop, not found.usable
        return Outcome(found.loss, found.terms, found.count, found.norm, lr, stop, phase.name, skipped)

    def updates(self, name: str, steps: int) -> int:
        """How many of the first steps updated a parameter."""
        skipped = {} if self.scale is None else self.scale.skipped
        phases = {phase.name: phase for phase in self.turns.cycle}
        missed = sum(count for phase, count in skipped.items() if trains(phases[phase], name))
        return self.turns.updates(name, steps) - missed

    def _move_on(self, updates: int, states: Mapping[int, Mapping[str, Tensor]]) -> None:
        """What else an update moves."""
        if self.following is not None:
            self.following.step(updates)
        if self.streams is not None:
            self.streams.take(states)


class Objective:
    """The objective of one step, to be evaluated at whatever weights stand when it is called."""

    def __init__(
        self,
        model: Model,
        totals: "Totals",
        micro_batches: Sequence[Batch],
        phase: Phase,
        trained: Sequence[str],
        stop: bool,
        clock: Clock,
        scale: float | None = None,
    ) -> None:
        """Prepare it.

        Args:
            scale: what the objective is multiplied by while it is differentiated; a gradient that is not finite then
                makes an evaluation that is not usable.
        """
        self.model, self.totals, self.micro_batches = model, totals, micro_batches
        self.phase, self.trained, self.stop, self.clock = phase, trained, torch.tensor(float(stop)), clock
        self.scale = scale
        self.told: Mapping[str, float] = {}  # counts of several terms, as the entry told them before forward
        self.weights, self.factor = self._weights()
        self.states: Mapping[int, Mapping[str, Tensor]] = {}  # of the first evaluation: new rows of the streams

    def __call__(self, clip: float = 0.0) -> Evaluation:
        """Forward and backward, and what they found over the world. Collective."""
        weights = {name: weight * (self.scale or 1.0) for name, weight in self.weights.items()}
        with self.clock("compute"):
            passed = self.model.run(self.micro_batches, phase=self.phase.name, weights=weights)
        self.states = self.states or passed.states
        return self._sum_up(passed, clip)

    def _sum_up(self, passed: Passed, clip: float) -> Evaluation:
        """Sums of the ranks to means, and the gradients to those of the mean objective."""
        share = self.model.square(self.trained)
        sums, (square, stops) = self.totals(passed.terms, share, self.stop, phase=self.phase.name)
        means = {name: value / count for name, (value, count) in sums.items() if count}
        count = self._count(sums)
        factor = (self.factor or 1.0 / count) / (self.scale or 1.0)
        norm = square**0.5 * factor
        self.model.scale(self.trained, factor * clip_factor(norm, clip))
        loss = sum(weight * means[name] for name, weight in self.model.entry.objective.items())
        parts = self.model.parts(self.trained)
        usable = self.scale is None or math.isfinite(norm)
        return Evaluation(loss, means, count, norm, parts, passed.update, stops > 0, usable)

    def _weights(self) -> tuple[Mapping[str, float], float]:
        """Weight of each term's sum in what is differentiated, and what the gradient is then multiplied by.

        Of one term the count is divided by after backward (0.0 says so). Several terms with counts of their own must
        be weighed against each other before it, so their counts are asked of the batch. Collective over the world.
        """
        entry = self.model.entry
        if len(entry.objective) == 1:
            return entry.objective, 0.0
        if (count_items := counting(entry)) is None:
            raise ValueError(f"the objective of {entry.name} has several terms, so the entry needs `counts`")
        mesh, found = self.model.mesh, [count_items(batch) for batch in self.micro_batches]
        each = [torch.stack([torch.as_tensor(one[name]).double() for one in found]) for name in entry.objective]
        flat = torch.stack(each).sum(1)
        flat = flat.to(mesh.device) * (mesh.layout.data / mesh.layout.world_size)  # ranks that share samples count once
        mesh.sum(flat)
        counts = dict(zip(entry.objective, flat.tolist(), strict=True))
        check_counts(counts)
        self.told = counts
        return {name: weight / counts[name] for name, weight in entry.objective.items()}, 1.0

    def _count(self, sums: Mapping[str, tuple[float, float]]) -> float:
        """Items of the objective's first term.

        Raises:
            ValueError: forward counted other items than the entry's `counts`, by which its terms were weighed.
        """
        objective = self.model.entry.objective
        found = {name: sums[name][1] for name in objective}
        check_counts(found)
        for name, told in self.told.items():
            if abs(found[name] - told) > 1e-6 * told:
                raise ValueError(
                    f"the term {name!r} of {self.model.entry.name} counts {found[name]:g} items in forward, but the "
                    f"entry's `counts` told {told:g}; both must say the same of a batch"
                )
        return found[next(iter(objective))]


def check_counts(counts: Mapping[str, float]) -> None:
    """Refuse to divide by nothing.

    Raises:
        ZeroDivisionError: the global batch holds no item of some term.
    """
    for name, count in counts.items():
        if count <= 0:
            raise ZeroDivisionError(f"the global batch counts no item of the term {name!r}; nothing to average over")


class Totals:
    """Sums terms over the data ranks, and other scalars over the world, in one all-reduce of float64."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.names: dict[str, list[str]] = {}  # phase -> its terms

    def __call__(
        self, terms: Terms, *others: Tensor, phase: str = ""
    ) -> tuple[dict[str, tuple[float, float]], list[float]]:
        """({name: (sum, count)}, the other scalars' sums). Collective over the world."""
        names = self._agree(terms, phase)
        device = self.model.mesh.device
        zero = torch.zeros((), dtype=torch.float64, device=device)
        pairs = [x for name in names for x in terms.get(name, (zero, zero))]
        flat = torch.stack([x.to(device, torch.float64) for x in (*pairs, *others)])
        flat[: len(pairs)] /= self.model.mesh.layout.tensor  # every tensor rank has the same terms
        self.model.mesh.sum(flat)
        values = flat.tolist()
        sums = {name: (values[2 * i], values[2 * i + 1]) for i, name in enumerate(names)}
        return sums, values[len(pairs) :]

    def _agree(self, terms: Terms, phase: str) -> list[str]:
        """The terms' names in a phase, which under a pipeline only one stage knows; learnt at the first call."""
        if phase not in self.names:
            self.names[phase] = list(terms)
            if group := self.model.mesh.group("pipeline"):
                stages: list[list[str]] = [[] for _ in range(dist.get_world_size(group))]
                dist.all_gather_object(stages, self.names[phase], group=group)
                self.names[phase] = max(stages, key=len)
        return self.names[phase]
