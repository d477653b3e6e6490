"""Who takes the same training steps? Our loop, our step alone, and the peers, each over its own copy of one model.

Every contender starts from the same weights and reads the same batches with the same AdamW, schedule and clipping, so
after any number of steps all have the same loss.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Protocol

import pictures  # noqa: F401  # before the peers
from lightning.fabric import Fabric
from lightning.fabric.plugins.environments import TorchElasticEnvironment
from lightning.fabric.strategies import DDPStrategy
from shardwright.trainers.data.loader import Loader
from shardwright.trainers.data.order import Order
from shardwright.trainers.optimizers import build_rule, decay_groups
from shardwright.trainers.parallelize import build_seeded
from shardwright.trainers.schedules import factor
from shardwright.trainers.session import Session, Training
from shardwright.trainers.terms import Batch
from shardwright.trainers.world import Worker
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import clip_grad_norm_
from torch.optim.lr_scheduler import LambdaLR


class Contender(Protocol):
    """Takes one step after the other."""

    def step(self, index: int) -> float:
        """Update from the batch of a step (0 is the first); the loss of this rank's share, or of the whole batch."""


class Loop:
    """Our whole loop: the body of trainers.loop.train between two evaluations."""

    def __init__(self, worker: Worker, training: Training) -> None:
        self.session = Session(worker, training)

    def step(self, index: int) -> float:
        """Load, step, report, snapshot."""
        session = self.session
        session.trace.before(index + 1)
        outcome = session.step(index, session.load(index), bool(session.worker.stop()), session.clock)
        session.report(index + 1, outcome)
        session.snapshot(index + 1)
        session.trace.after(index + 1)
        return outcome.loss


class BareStep:
    """Our step without snapshot and event."""

    def __init__(self, worker: Worker, training: Training) -> None:
        self.session = Session(worker, replace(training, snapshot_every=0))

    def step(self, index: int) -> float:
        """Load and step."""
        session = self.session
        return session.step(index, session.load(index), False, session.clock).loss


class Recipe:
    """What a peer is given: a copy of the model, its optimizer and schedule, and the batches of this rank."""

    def __init__(self, worker: Worker, training: Training) -> None:
        options, layout = training.optimizer, training.layout
        self.clip, self.steps = training.train.clip, int(training.train.steps or 0)
        self.program = build_seeded(training.entry, training.config, training.seed)
        self.rule = build_rule(options, decay_groups(options, dict(self.program.named_parameters())))
        self.schedule = LambdaLR(self.rule, lambda step: factor(training.schedule, step, self.steps))
        train, share = training.data.train, training.train.global_batch // layout.data
        order, rank = Order(len(train), training.seed), layout.data_rank(worker.rank)
        self.loader = Loader(train, order, training.seed, training.train.global_batch, rank, layout.data, share)

    def batch(self, index: int) -> Batch:
        """This rank's share of a step."""
        return self.loader.load(index)[0]

    def batches(self) -> Iterator[Batch]:
        """Those of all steps, in order."""
        return map(self.batch, range(self.steps))


class PlainLoop:
    """The loop that PyTorch's own tutorial on DistributedDataParallel teaches."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.model = DistributedDataParallel(recipe.program)

    def step(self, index: int) -> float:
        """Forward, backward, clip, update."""
        recipe = self.recipe
        total, count = self.model(recipe.batch(index))["loss"]
        loss = total / count
        loss.backward()
        clip_grad_norm_(self.model.parameters(), recipe.clip)
        recipe.rule.step()
        recipe.schedule.step()
        recipe.rule.zero_grad()
        return float(loss)


class FabricLoop:
    """Lightning Fabric's loop."""

    def __init__(self, recipe: Recipe, ranks: int) -> None:
        self.recipe = recipe
        strategy = DDPStrategy(cluster_environment=TorchElasticEnvironment(), process_group_backend="gloo")
        self.fabric = Fabric(accelerator="cpu", devices=ranks, strategy=strategy)
        self.fabric.launch()
        self.model, self.rule = self.fabric.setup(recipe.program, recipe.rule)

    def step(self, index: int) -> float:
        """Forward, backward, clip, update."""
        recipe = self.recipe
        total, count = self.model(recipe.batch(index))["loss"]
        loss = total / count
        self.fabric.backward(loss)
        self.fabric.clip_gradients(self.model, self.rule, max_norm=recipe.clip)
        self.rule.step()
        recipe.schedule.step()
        self.rule.zero_grad()
        return float(loss)
