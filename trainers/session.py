"""What does the loop work with? Everything of one rank, built in order and restored, with one method for each event."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import log
from pathlib import Path
from typing import Any

import torch

from ..models.entry import Entry, followers
from ..models.program import Terms
from .checkpoint.store import save
from .clock import Clock
from .data.dataset import Data, MapStyle
from .data.loader import Loader, Positions
from .data.order import InTurn, Lanes, Order
from .engine import build_engine
from .follow import Following
from .layout import Layout
from .loss_scale import LossScale, loss_scale
from .mesh import build_mesh
from .options import (
    CheckpointOptions,
    EvalOptions,
    OptimizerOptions,
    ScheduleOptions,
    TrainOptions,
)
from .peak import peak_flops
from .portions import BACKWARD, share, total_steps
from .probe import settle_micro_batch
from .restore import open_slots, restore
from .schedules import factor
from .step import Outcome, Step, Totals
from .streams import Streams
from .terms import Batch, add
from .trace import Trace, traced_steps
from .world import Worker


@dataclass(frozen=True)
class Training:
    """What is asked of the trainer, as values."""

    entry: Entry
    config: Any
    layout: Layout
    data: Data
    train: TrainOptions
    optimizer: OptimizerOptions
    schedule: ScheduleOptions
    checkpoint: CheckpointOptions
    eval: EvalOptions
    seed: int
    snapshot_every: int  # steps; 0: none
    checkpoints: Path  # folder of the run's checkpoints
    traces: Path  # folder for what train.trace asks for
    first_guess: int  # samples of a micro-batch that should fit, where train.micro_batch is "auto"


def peak(device: torch.device) -> dict[str, int]:
    """The most bytes of tensors on a GPU since the run began; nothing on a CPU, whose allocator does not count."""
    return {"peak_bytes": torch.cuda.max_memory_allocated(device)} if device.type == "cuda" else {}


class Session:
    """One rank of one attempt."""

    def __init__(self, worker: Worker, training: Training) -> None:
        """Build and restore. Collective.

        Raises:
            ValueError: the job cannot be trained so; the sentence says why.
        """
        self.worker, self.training = worker, training
        self.clock = Clock()
        data, options = training.data, training.train
        self.steps = total_steps(options, len(data.train), data.tokens_per_sample)
        self.enter("parallelize")
        mesh = build_mesh(training.layout, worker.rank, worker.device)
        engine = build_engine(
            training.entry,
            training.config,
            mesh,
            training.optimizer,
            options.clip,
            seed=training.seed,
            tokens=data.tokens_per_sample or 0,
            dtype=options.dtype,
            recompute=options.recompute,
            activations=options.activations,
            debug=options.debug,
            compiled=options.compile,
        )
        self.model, self.state = engine.model, engine.state
        slots = share(options.global_batch, training.layout.data)
        self.streams = Streams(training.entry, training.config, self.model.program, mesh, slots)
        self.tensors = {**self.state.tensors, **self.streams.tensors()}
        self.enter("restore")
        self.slots = open_slots(worker, self.tensors) if training.snapshot_every else None
        restored = restore(worker, training.checkpoints, self.tensors, self.slots)
        if restored.source != "scratch":
            self.state.adopt()
        worker.tell("resume", step=restored.step, source=restored.source, path=restored.path, steps=self.steps)
        self.start = restored.step
        self.order = self._order(len(data.train))
        self.micro_batch = self._micro_batch(restored.host.get("micro_batch"))
        self.loader = self._loader(data.train, self.order, self.micro_batch)
        self.held_out = None
        if data.held_out is not None:
            self.held_out = self._loader(data.held_out, InTurn(len(data.held_out)), self.micro_batch)
        self.trace = Trace(traced_steps(options.trace), training.traces, worker.rank)
        following = Following(followers(training.entry, training.config), self.model.parameters, self.steps)
        self.scale = self._scale(restored.host.get("loss_scale"))
        self.step = Step(self.model, engine.solver, self._lr, self.streams, following, self.scale)
        engine.solver.set_updates(lambda name: self.step.updates(name, restored.step))
        self.totals = Totals(self.model)
        self._tell_speed_limit()

    def enter(self, phase: str) -> None:
        """Report which phase begins."""
        self.worker.tell("phase", name=phase)

    def load(self, step: int) -> list[Batch]:
        """This rank's micro-batches of a step, on its device."""
        with self.clock("data"):
            return [self._moved(batch) for batch in self.loader.load(step)]

    def fresh(self, step: int) -> bool:
        """Whether the slots of the entry's streams begin anew at a step."""
        return isinstance(self.order, Lanes) and step % self.order.turns == 0

    def snapshot(self, done: int) -> None:
        """Keep the state in memory, if it is its turn."""
        if self.slots is not None and done % self.training.snapshot_every == 0:
            with self.clock("snapshot"):
                self.state.fill()
                self.slots.write(done, self._host(done))

    def report(self, done: int, outcome: Outcome) -> None:
        """Tell what a step found and where its time went."""
        seconds, spent = self.clock.read()
        samples = self.training.train.global_batch
        self.worker.tell(
            "step",
            step=done,
            loss=outcome.loss,
            terms=outcome.terms,
            lr=outcome.lr,
            grad_norm=outcome.grad_norm,
            **({"turn": outcome.phase} if outcome.phase else {}),
            **({"skipped": outcome.skipped, "loss_scale": self.scale.value} if self.scale else {}),
            samples=samples,
            tokens=samples * (self.training.data.tokens_per_sample or 1),
            seconds=seconds,
            spent=spent,
            **peak(self.worker.device),
        )

    def evaluates_after(self, done: int) -> bool:
        """Whether held-out data is due."""
        every = self.training.eval.every
        return self.held_out is not None and (done == self.steps or bool(every and done % every == 0))

    def evaluate(self, done: int) -> None:
        """Tell the loss on held-out data, in nats and, where bytes are known, in bits per byte. Collective."""
        assert self.held_out is not None
        self.enter("eval")
        with self.clock("eval"):
            terms: Terms = {}
            for index in range(min(self.training.eval.batches, self.held_out.whole_batches)):
                micro_batches = [self.streams.blank(self._moved(batch)) for batch in self.held_out.load(index)]
                terms = add(terms, self.model.evaluate(micro_batches, phase=self.step.turns.cycle[-1].name))
            sums, _ = self.totals(terms)
        means = {name: total / count for name, (total, count) in sums.items() if count}
        loss = sum(weight * means[name] for name, weight in self.training.entry.objective.items())
        size = self.training.data.bytes_per_token
        whole = self.training.entry.continues  # a text costs so many bits where each of its tokens is predicted
        bits = loss / (log(2) * size) if size and whole else None
        self.worker.tell(
            "eval", step=done, loss=loss, terms=means, bits_per_byte=bits, seconds=self.clock.spent["eval"]
        )
        self.enter("train")

    def saves_after(self, done: int) -> bool:
        """Whether a checkpoint is due."""
        every = self.training.checkpoint.every
        return done == self.steps or bool(every and done % every == 0)

    def save(self, done: int) -> None:
        """Publish a checkpoint. Collective."""
        self.enter("checkpoint")
        with self.clock("checkpoint"):
            self.state.fill()
            path = save(
                self.training.checkpoints,
                done,
                self.tensors,
                self._host(done),
                attempt=self.worker.attempt,
                keep=self.training.checkpoint.keep,
            )
        self.worker.tell("checkpoint", step=done, path=str(path), seconds=self.clock.spent["checkpoint"])
        self.enter("train")

    def end(self, done: int, reason: str) -> str:
        """Tell how the attempt ended."""
        self.trace.close()
        self.worker.tell("end", step=done, reason=reason)
        return reason

    def _tell_speed_limit(self) -> None:
        """Tell what a utilization is computed from, where both the work and the device's peak are known."""
        training = self.training
        peak = peak_flops(self.worker.device, training.train.dtype)
        if peak is None or training.entry.flops is None:
            return
        forward = training.entry.flops(training.config, training.data.tokens_per_sample or 1)
        step_flops = BACKWARD * forward * training.train.global_batch
        self.worker.tell("speed", step_flops=step_flops, peak_flops=peak[0], peak_source=peak[1])

    def _host(self, done: int) -> dict[str, Any]:
        """The state that is no tensor."""
        scale = {"loss_scale": self.scale.state()} if self.scale else {}
        return {"step": done, "micro_batch": self.micro_batch, "seed": self.training.seed, **scale}

    def _lr(self, step: int) -> float:
        return self.training.optimizer.lr * factor(self.training.schedule, step, self.steps)

    def _scale(self, state: Mapping[str, Any] | None) -> LossScale | None:
        """The scale of the loss that the dtype needs, as it was when the run was left."""
        training = self.training
        items = training.train.global_batch * (training.data.tokens_per_sample or 1)
        scale = loss_scale(training.train.dtype, len(training.entry.objective), items)
        if scale is not None and state is not None:
            scale.restore(state)
        return scale

    def _order(self, size: int) -> Positions:
        """Shuffled; but where slots carry state, each reads on where it was, and experience has only its slots."""
        entry, slots = self.training.entry, self.training.train.global_batch
        if entry.data == "experience":
            return InTurn(size)
        return Lanes(size, slots) if entry.streams else Order(size, self.training.seed)

    def _loader(self, dataset: MapStyle, order: Positions, micro_batch: int) -> Loader:
        training = self.training
        return Loader(
            dataset,
            order,
            seed=training.seed,
            global_batch=training.train.global_batch,
            data_rank=training.layout.data_rank(self.worker.rank),
            data_degree=training.layout.data,
            micro_batch=micro_batch,
        )

    def _moved(self, batch: Batch) -> Batch:
        return {name: x.to(self.worker.device, non_blocking=True) for name, x in batch.items()}

    def _micro_batch(self, settled: int | None) -> int:
        """Samples of a micro-batch: the job's, the one this run settled on before, or one that a probe step finds."""
        options, of_rank = self.training.train, share(self.training.train.global_batch, self.training.layout.data)
        if options.micro_batch != "auto":
            return options.micro_batch
        if settled and of_rank % settled == 0:
            return settled
        self.enter("probe")
        (batch,) = self._loader(self.training.data.train, self.order, of_rank).load(0)
        size = settle_micro_batch(self.model, self.streams.blank(self._moved(batch)), self.training.first_guess)
        self.worker.tell("micro_batch", size=size, estimate=self.training.first_guess)
        return size
