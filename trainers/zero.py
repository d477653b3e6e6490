"""How do ZeRO-1, 2 and 3 differ? Three settings of fully_shard (Rajbhandari et al. 2020; torch FSDP2).

| stage | parameters between forward and backward | gradients between two micro-batches |
|---|---|---|
| 1 | whole, until the last backward | whole, reduced after the last backward only |
| 2 | whole, until the last backward | sharded, reduced in every backward |
| 3 | sharded, gathered unit by unit in every forward and backward | sharded |
"""

from collections.abc import Sequence

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, MixedPrecisionPolicy, OffloadPolicy, fully_shard

from .layout import Layout


class ZeroSync:
    """Tells a sharded program, before each backward, what this stage keeps and what it communicates."""

    def __init__(self, program: nn.Module, stage: int) -> None:
        assert isinstance(program, FSDPModule)
        self.program: FSDPModule = program
        self.parameters = list(program.parameters())
        self.gathered = [module for module in program.modules() if isinstance(module, FSDPModule)]
        self.stage = stage

    def zero(self) -> None:
        """Clear the gradients; call before a step's first forward (later, it would clear the wrong tensors)."""
        for parameter in self.parameters:
            parameter.grad = None

    def prepare(self, last: bool, chunk: int = 0) -> None:
        """Say, before a forward and its backward, whether the backward is the step's last one."""
        self.program.set_reshard_after_backward(last or self.stage == 3)
        self.program.set_requires_gradient_sync(last or self.stage >= 2)
        self.program.set_requires_all_reduce(last)  # replicas of shards add up once, over what the shards have summed

    def finish(self) -> None:
        """Free what is still gathered where no backward came: its weights would be old after the next update."""
        for module in self.gathered:
            module.reshard()


def shard_units(
    program: nn.Module,
    groups: Sequence[Sequence[str]],
    axis: DeviceMesh,
    layout: Layout,
    compute: torch.dtype | None,
    apart: set[nn.Parameter],
) -> ZeroSync:
    """Shard a program in place over `axis` (one dim: shard; two dims: replicate x shard).

    Gradients come out as sums over the data ranks, as replicas' gradients do.

    Args:
        groups: module paths; the modules of one group are gathered and freed together, in this order of use.
        compute: dtype of the gathered parameters, and of what comes into a unit; None keeps fp32. The batch is left
            as it is, and gradients are reduced in fp32.
        apart: parameters that are left as they are.
    """
    pinned = axis.device_type == "cuda"
    offload = CPUOffloadPolicy(pin_memory=pinned) if layout.offload else OffloadPolicy()
    for group in (*groups, [""]):
        modules = [program.get_submodule(path) for path in group]
        wide = torch.float32 if compute else None
        policy = MixedPrecisionPolicy(compute, reduce_dtype=wide, cast_forward_inputs=group != [""])
        fully_shard(
            modules if len(modules) > 1 else modules[0],
            mesh=axis,
            reshard_after_forward=layout.zero == 3,
            mp_policy=policy,
            offload_policy=offload,
            ignored_params=apart,
        )
    for module in program.modules():
        if isinstance(module, FSDPModule):
            module.set_force_sum_reduction_for_comms(True)  # gloo has no other way to a divisor of one
            module.set_gradient_divide_factor(1.0)
    return ZeroSync(program, layout.zero)
