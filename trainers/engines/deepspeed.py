"""How does DeepSpeed train? Its engine runs the passes and shards what its ZeRO stage says; its optimizer updates.

Gradients are averages over the ranks there, in flat partitions, and are scaled by what DeepSpeed calls the loss scale:
that is where the division by the global count and the clipping go, which are known after the last backward only. Its
own clipping (1.0 where nothing is said) is off. Nothing is compiled: its shared-memory collectives are declared
incompatible, and the update rule is torch's.
"""

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import accumulate
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ...models.entry import Entry
from ...models.program import Terms, take_apart
from ..engine import Engine
from ..layout import Layout
from ..mesh import Mesh
from ..optimizers import ShardedOptimizer, build_rule, decay_groups
from ..options import OptimizerOptions
from ..parallelize import parallelize
from ..sharded import Sharded
from ..solvers import Descent, Evaluate, Evaluation
from ..state import Live, persistent_buffers
from ..terms import LOSS, Batch, Passed, add, objective
from .deepspeed_pipeline import DeepSpeedPipeline
from .fragments import GRADIENT, WEIGHT, Fragments, Partitions, Shards
from .plain import whole_model


def library() -> Any:
    """DeepSpeed, imported by the rank that uses it: it keeps state for the whole process."""
    os.environ["DS_ACCELERATOR"] = "cuda" if torch.cuda.is_available() else "cpu"
    os.environ.setdefault("LOCAL_RANK", "0")
    import deepspeed

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # it would compile one at its first collective
    with uncompiled():
        import deepspeed.runtime.zero.muon.muon_optimizer
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    deepspeed.init_distributed(dist.get_backend())
    return deepspeed


@contextmanager
def uncompiled() -> Iterator[None]:
    """Functions that ask torch.compile to decorate them stay as they are.

    DeepSpeed looks whether an optimizer is Muon, whose module would load torch's whole compiler: more than a second.
    """
    usual = torch.compile
    torch.compile = lambda function=None, **_: function or (lambda each: each)  # type: ignore[assignment]
    try:
        yield
    finally:
        torch.compile = usual


def settings(layout: Layout) -> dict[str, Any]:
    """DeepSpeed's configuration, with every default that would change the result stated."""
    zero: dict[str, Any] = {"stage": layout.zero, "overlap_comm": False, "stage3_param_persistence_threshold": 0}
    if layout.offload:
        zero |= {"offload_optimizer": {"device": "cpu"}, "offload_param": {"device": "cpu"}}
    return {
        "train_micro_batch_size_per_gpu": 1,  # it counts samples with it, nothing else
        "gradient_accumulation_steps": 1,  # the last backward is announced
        "gradient_clipping": 0.0,
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 2**62,
    }


class DeepSpeedModel:
    """One rank's part of a model under ZeRO."""

    def __init__(self, sharded: Sharded, optimizer: OptimizerOptions) -> None:
        deepspeed = library()
        self.entry, self.mesh, self.parameters = sharded.entry, sharded.mesh, sharded.parameters
        trained = {name: p for name, p in self.parameters.items() if p.requires_grad}
        self.engine, *_ = deepspeed.initialize(
            model=sharded.program,
            optimizer=build_rule(optimizer, decay_groups(optimizer, trained)),
            config=settings(self.mesh.layout),
            dist_init_required=False,
        )
        self.program: nn.Module = self.engine.module
        kind = Shards if self.mesh.layout.zero == 3 else Partitions
        self.fragments: Fragments = kind(self.engine.optimizer, self.parameters)
        self.ranks = dist.get_world_size()
        self.factor = 1.0  # what the update multiplies the summed gradient by

    def run(self, micro_batches: Sequence[Batch], *, phase: str = "", weights: Mapping[str, float] = LOSS) -> Passed:
        """Forward and backward of one step."""
        self.engine.train()
        self.fragments.clear()
        self.factor, passed = 1.0, Passed()
        for index, batch in enumerate(micro_batches):
            self.engine.set_gradient_accumulation_boundary(index == len(micro_batches) - 1)
            result = take_apart(self.engine(batch), weights)
            self.engine.backward(objective(result.terms, weights), scale_wrt_gas=False)
            passed.add(index, result)
        return passed

    @torch.no_grad()
    def evaluate(self, micro_batches: Sequence[Batch], *, phase: str = "") -> Terms:
        """Forward alone, in evaluation mode."""
        self.engine.eval()
        terms: Terms = {}
        for batch in micro_batches:
            terms = add(terms, take_apart(self.engine(batch), ()).terms)
        return terms

    def square(self, names: Sequence[str]) -> Tensor:
        """This rank's share of the summed gradient's squared norm."""
        pieces = [piece for name in names if (piece := self.fragments.piece(name, GRADIENT)) is not None]
        if not pieces:
            return torch.zeros((), dtype=torch.float64, device=self.mesh.device)
        return torch.stack(torch._foreach_norm(pieces)).double().square().sum() * self.ranks**2

    def scale(self, names: Sequence[str], factor: float) -> None:
        """Multiply the gradient, at the update."""
        self.factor *= factor

    def parts(self, names: Sequence[str]) -> dict[str, Tensor]:
        """None: they are pieces of flat partitions."""
        return {}

    def clear(self) -> None:
        """Drop the gradients."""
        self.engine.optimizer.zero_grad()

    def gradients(self, names: Sequence[str]) -> dict[str, Tensor]:
        """Whole gradients. Collective."""
        return {name: self.fragments.whole(name, GRADIENT) * (self.ranks * self.factor) for name in names}

    def prescribe(self, make: Callable[[Tensor], Tensor]) -> None:
        """Replace every gradient by a function of its parameter."""
        self.factor = 1.0
        for name in self.fragments.trained:
            if (piece := self.fragments.piece(name, GRADIENT)) is not None:
                weight = self.fragments.piece(name, WEIGHT)
                assert weight is not None
                piece.copy_(make(weight).view_as(piece) / self.ranks)

    def weights(self) -> dict[str, Tensor]:
        """Whole weights. Collective."""
        return {name: self.fragments.whole(name, WEIGHT) for name in self.parameters}

    def update(self, lr: float) -> None:
        """Update from the gradient, multiplied by what `scale` asked for. Collective."""
        optimizer = self.engine.optimizer
        for group in optimizer.param_groups:
            group["lr"] = lr * group["factor"]
        optimizer.override_loss_scale(1.0 / (self.factor * self.ranks))
        self.engine.step()
        optimizer.override_loss_scale(1.0)


class DeepSpeedSolver:
    """DeepSpeed's optimizer as a solver: one evaluation and one update."""

    def __init__(self, model: DeepSpeedModel, clip: float) -> None:
        self.model, self.clip = model, clip
        self.parameters: Mapping[str, nn.Parameter] = model.fragments.trained

    def step(self, evaluate: Evaluate, lr: float, names: Iterable[str]) -> Evaluation:
        """Follow the gradient of everything that is trained."""
        found = evaluate(self.clip)
        self.model.update(lr)
        return found

    def state(self) -> Iterator[tuple[str, str, Tensor]]:
        """None as parts of parameters: `Staged` has them."""
        return iter(())

    def set_updates(self, updates: Callable[[str], int]) -> None:
        """Its bias corrections count them; all parameters have the same number."""
        self.model.fragments.set_updates(updates(next(iter(self.parameters))))


class Staged:
    """Whole tensors for a checkpoint, each on one rank, put together from pieces when they are asked for."""

    def __init__(self, model: DeepSpeedModel) -> None:
        self.fragments = model.fragments
        names = [(name, WEIGHT) for name in model.parameters]
        names += [(name, key) for key in self.fragments.states() for name in model.fragments.trained]
        self.owners = dict(zip(names, owners([self.fragments.shape(name).numel() for name, _ in names]), strict=True))
        self.staged = {
            which: torch.zeros(self.fragments.shape(which[0]))
            for which, owner in self.owners.items()
            if owner == dist.get_rank()
        }
        buffers = persistent_buffers(model.program)
        self.tensors = {f"model.{name}": x for name, x in buffers.items()} | {
            f"model.{name}" if what == WEIGHT else f"optimizer.{name}.{what}": x
            for (name, what), x in self.staged.items()
        }

    def fill(self) -> None:
        """Put every tensor together on its owner. Collective."""
        for which, owner in self.owners.items():
            whole = self.fragments.whole(*which, owner=owner)
            if which in self.staged:
                self.staged[which].copy_(whole)

    def adopt(self) -> None:
        """Give every rank its pieces of what the owners read. Collective."""
        for which, owner in self.owners.items():
            whole = self.staged[which] if which in self.staged else torch.empty(self.fragments.shape(which[0]))
            dist.broadcast(whole, owner)
            self.fragments.take(*which, whole)
        self.fragments.spread()


def owners(sizes: Sequence[int]) -> list[int]:
    """A rank for each of some tensors: consecutive ones, about as many elements on every rank."""
    ranks, total = dist.get_world_size(), sum(sizes)
    return [min(ranks - 1, (end - 1) * ranks // total) for end in accumulate(sizes)]


def build(entry: Entry, config: Any, mesh: Mesh, optimizer: OptimizerOptions, clip: float, **building: Any) -> Engine:
    """ZeRO of an entry, or its pipeline. Collective."""
    if mesh.layout.pipeline > 1:
        return _pipeline(entry, config, mesh, optimizer, clip, **building)
    model = DeepSpeedModel(whole_model(entry, config, mesh, **building), optimizer)
    return Engine(model, DeepSpeedSolver(model, clip), Staged(model))


def _pipeline(
    entry: Entry, config: Any, mesh: Mesh, optimizer: OptimizerOptions, clip: float, **building: Any
) -> Engine:
    """The trainer's cut and optimizer, and DeepSpeed's order between them."""
    alone = replace(mesh, layout=replace(mesh.layout, engine="torch"))
    sharded = replace(parallelize(entry, config, alone, **building), mesh=mesh)
    own = ShardedOptimizer(optimizer, sharded.parameters)
    pipeline = DeepSpeedPipeline(library(), sharded, own.rule, settings(mesh.layout))
    sharded, solver = replace(sharded, pipeline=pipeline), Descent(own, clip)
    return Engine(sharded, solver, Live(sharded, solver))
