"""How do replicas agree on a gradient? Flat buckets summed over the replicate axis while backward still runs.

The gradients live in the buckets (`grad` is a view), so nothing is copied in or out. Buckets are reduced in one fixed
order on every rank (Li et al. 2020, PyTorch Distributed, section 3.2).
"""

from collections.abc import Iterable, Sequence

import torch
import torch.distributed as dist
from torch import nn

from ..models.axes import local
from .parts import shaped_like

BUCKET_BYTES = 25 * 2**20


class Bucket:
    """The gradients of a few parameters as one flat tensor."""

    def __init__(self, parameters: list[nn.Parameter]) -> None:
        self.parameters = parameters
        self.waiting = len(parameters)
        parts = [local(p.detach()) for p in parameters]
        self.flat = torch.zeros(sum(x.numel() for x in parts), dtype=parts[0].dtype, device=parts[0].device)
        views = self.flat.split([x.numel() for x in parts])
        self.gradients = [shaped_like(p, v.view(x.shape)) for p, v, x in zip(parameters, views, parts, strict=True)]

    def attach(self) -> None:
        """Zero the gradients and make them the parameters' own."""
        self.flat.zero_()
        for parameter, gradient in zip(self.parameters, self.gradients, strict=True):
            parameter.grad = gradient


class GradientReducer:
    """Sums gradients over a group of replicas, the last micro-batch's backward overlapping the communication."""

    def __init__(
        self, parameters: Iterable[nn.Parameter], group: dist.ProcessGroup, apart: Sequence[nn.Parameter] = ()
    ) -> None:
        """Bucket the parameters; those `apart` are not reduced, and only cleared with the others."""
        self.group, self.apart = group, apart
        self.buckets = [Bucket(part) for part in portions(list(parameters)[::-1], BUCKET_BYTES)]
        self.works: list[dist.Work] = []
        self.last = False
        for bucket in self.buckets:
            for parameter in bucket.parameters:
                parameter.register_post_accumulate_grad_hook(lambda _, bucket=bucket: self._ready(bucket))

    def zero(self) -> None:
        """Clear the gradients; call before a step's first forward."""
        for bucket in self.buckets:
            bucket.attach()
        for parameter in self.apart:
            parameter.grad = None

    def prepare(self, last: bool, chunk: int = 0) -> None:
        """Say, before a backward, whether it is the step's last one."""
        self.last = last
        if last:
            self.works = []
            for bucket in self.buckets:
                bucket.waiting = len(bucket.parameters)

    def finish(self) -> None:
        """After the last backward: reduce what no hook has started, wait for all."""
        for bucket in self.buckets[len(self.works) :]:
            self._start(bucket)
        for work in self.works:
            work.wait()

    def _ready(self, bucket: Bucket) -> None:
        if not self.last:
            return
        bucket.waiting -= 1
        while len(self.works) < len(self.buckets) and self.buckets[len(self.works)].waiting <= 0:
            self._start(self.buckets[len(self.works)])

    def _start(self, bucket: Bucket) -> None:
        self.works.append(dist.all_reduce(bucket.flat, group=self.group, async_op=True))


def portions(parameters: list[nn.Parameter], most: int) -> list[list[nn.Parameter]]:
    """Consecutive parameters of one dtype, each portion as large as `most` bytes allows (one parameter at least)."""
    portions: list[list[nn.Parameter]] = []
    room, dtype = 0, None
    for parameter in parameters:
        size = parameter.numel() * parameter.element_size()
        if size > room or parameter.dtype != dtype:
            portions.append([])
            room, dtype = most, parameter.dtype
        portions[-1].append(parameter)
        room -= size
    return portions
