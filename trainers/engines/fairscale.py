"""How does FairScale train? Each rank owns whole parameters: it receives their gradients and updates them (ZeRO-1).

OSS shards the optimizer, ShardedDDP brings each gradient to its owner. Two of its ways are switched off. Its buckets
(reduce_buffer_size) go wrong once gradients are cleared to None, from the second step on. And it reduces from hooks, in
the order in which a rank's gradients get ready, which may differ between ranks; here all micro-batches accumulate, and
then every gradient is reduced in one fixed order.
"""

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import fields, replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ...models.entry import Entry
from ..engine import Engine
from ..mesh import Mesh
from ..optimizers import ShardedOptimizer
from ..options import OptimizerOptions
from ..sharded import Sharded
from ..solvers import Descent
from ..state import Live
from .fairscale_pipe import FairScalePipe
from .plain import whole_model


class OwnersOptimizer(ShardedOptimizer):
    """An optimizer that OSS shards: the leaves are the parameters that this rank owns."""

    def leaf(self, parameter: nn.Parameter) -> Tensor:
        """The parameter itself."""
        return parameter

    def wrap(self, rule: torch.optim.Optimizer) -> Any:
        """OSS over the rule's groups; the rule that holds states is OSS's own, over what this rank owns."""
        from fairscale.optim.oss import OSS

        self.oss = OSS(rule.param_groups, optim=type(rule))  # the groups state every value
        owned = {id(p) for group in self.oss.partition_parameters()[self.oss.rank] for p in group["params"]}
        self.leaves = {name: leaf for name, leaf in self.leaves.items() if id(leaf) in owned}
        return self.oss.optim

    def step(self, lr: float, names: Iterable[str] | None = None) -> None:
        """Update the named parameters, or all."""
        named = set(self.parameters if names is None else names)
        for name, parameter in self.parameters.items():
            if name not in named or name not in self.leaves:  # zeros, in another phase or where another rank owns it
                parameter.grad = None
        super().step(lr, [name for name in self.leaves if name in named])

    def apply(self) -> None:
        """Update what this rank owns, and receive the rest from its owners. Collective."""
        groups = zip(self.oss.param_groups, self.rule.param_groups, strict=True)
        for whole, own in groups:
            whole.update({key: value for key, value in own.items() if key != "params"})
        self.oss.step()


class OwnersSync:
    """Sums each gradient on its owner, after the last backward."""

    def __init__(self, program: Any, optimizer: OwnersOptimizer) -> None:
        self.program, self.optimizer = program, optimizer
        self.accumulating = ExitStack()

    def zero(self) -> None:
        """Clear the gradients; until `finish` they accumulate on this rank."""
        self.accumulating.close()
        for parameter in self.optimizer.parameters.values():
            parameter.grad = None
        self.accumulating.enter_context(self.program.no_sync())

    def prepare(self, last: bool, chunk: int = 0) -> None:
        """Nothing to announce."""

    def finish(self) -> None:
        """Reduce; ShardedDDP divides by the ranks, so an owner multiplies again."""
        self.accumulating.close()
        for parameter in self.optimizer.parameters.values():
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        self.program.reduce()
        owned = [leaf.grad for leaf in self.optimizer.leaves.values() if leaf.grad is not None]
        torch._foreach_mul_(owned, float(dist.get_world_size()))


class Owners(Sharded):
    """A whole model on every rank, whose gradients are on their owners."""

    def gradients(self, names: Sequence[str]) -> dict[str, Tensor]:
        """Whole gradients: elsewhere than on their owner they are zeros. Collective."""
        found = {name: gradient.clone() for name, gradient in super().gradients(names).items()}
        for gradient in found.values():
            dist.all_reduce(gradient)
        return found


def build(entry: Entry, config: Any, mesh: Mesh, optimizer: OptimizerOptions, clip: float, **building: Any) -> Engine:
    """ZeRO-1 of an entry, or its pipeline in one process. Collective."""
    whole = whole_model(entry, config, mesh, **building)
    return _pipe(whole, config, optimizer, clip) if mesh.layout.pipeline > 1 else _owners(whole, optimizer, clip)


def _owners(whole: Sharded, optimizer: OptimizerOptions, clip: float) -> Engine:
    from fairscale.nn.data_parallel import ShardedDataParallel

    owners = OwnersOptimizer(optimizer, whole.parameters)
    program = ShardedDataParallel(
        whole.program,
        owners.oss,
        reduce_buffer_size=0,
        broadcast_buffers=False,
        sync_models_at_startup=False,
        auto_refresh_trainable=False,
    )
    program.refresh_trainable()  # it moves the parameters into other memory, now and not at the first forward
    program.state_dict = whole.program.state_dict  # names without the wrapper's in front
    changed = {"program": program, "sync": OwnersSync(program, owners), "holders": dict.fromkeys(whole.parameters, 1)}
    sharded = Owners(**{field.name: getattr(whole, field.name) for field in fields(whole)} | changed)
    solver = Descent(owners, clip)
    return Engine(sharded, solver, Live(sharded, solver))


def _pipe(whole: Sharded, config: Any, optimizer: OptimizerOptions, clip: float) -> Engine:
    pipe = FairScalePipe(whole.entry, config, whole.mesh.layout, whole.program, whole.mesh.device)
    sharded = replace(whole, pipeline=pipe)
    solver = Descent(ShardedOptimizer(optimizer, sharded.parameters), clip)
    return Engine(sharded, solver, Live(sharded, solver))
