"""How does Horovod train replicas? It sums the gradients of the last backward, and wraps the optimizer.

Its ranks find one another through a server of its own, whose address travels over the process group that is already
here. Gradients are summed (op=Sum), as the step divides by the count that is known only afterwards. Its
broadcast_optimizer_state is never called: on a fresh optimizer it makes an update with zero gradients, in which AdamW's
decay moves the weights. Every rank builds the same model and reads the same checkpoint instead.
"""

import os
import socket
import threading
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ...models.entry import Entry
from ..engine import Engine
from ..mesh import Mesh
from ..optimizers import ShardedOptimizer
from ..options import OptimizerOptions
from ..solvers import Descent
from ..state import Live
from .plain import whole_model


class HorovodOptimizer(ShardedOptimizer):
    """An optimizer whose rule is wrapped by Horovod: it hears when a parameter's gradient is ready."""

    def leaf(self, parameter: nn.Parameter) -> Tensor:
        """The parameter itself: its hooks tell that a gradient is there."""
        return parameter

    def wrap(self, rule: torch.optim.Optimizer) -> Any:
        """The rule as Horovod's distributed optimizer."""
        import horovod.torch as hvd

        return hvd.DistributedOptimizer(rule, self.parameters.items(), op=hvd.Sum)

    def step(self, lr: float, names: Iterable[str] | None = None) -> None:
        """Update the named parameters, or all; the others were reduced too, and have a gradient of zeros."""
        named = set(self.parameters if names is None else names)
        for name, parameter in self.parameters.items():
            if name not in named:
                parameter.grad = None
        super().step(lr, named)

    def apply(self) -> None:
        """Update from gradients that are reduced already."""
        with self.rule.skip_synchronize():
            self.rule.step()


class HorovodSync:
    """Lets Horovod sum the gradients of a step's last backward, while that runs."""

    def __init__(self, optimizer: HorovodOptimizer) -> None:
        self.optimizer = optimizer

    def zero(self) -> None:
        """Clear the gradients."""
        for parameter in self.optimizer.parameters.values():
            parameter.grad = None

    def prepare(self, last: bool, chunk: int = 0) -> None:
        """Reduce in the next backward, or in none that is announced as not the last."""
        self.optimizer.rule.set_backward_passes_per_step(1 if last else 2)

    def finish(self) -> None:
        """Wait for the sums; a parameter without a gradient on this rank takes part with zeros."""
        self.optimizer.rule.synchronize()


def build(entry: Entry, config: Any, mesh: Mesh, optimizer: OptimizerOptions, clip: float, **building: Any) -> Engine:
    """Replicas of an entry. Collective."""
    join(mesh)
    sharded = whole_model(entry, config, mesh, **building)
    wrapped = HorovodOptimizer(optimizer, sharded.parameters)
    sharded = replace(sharded, sync=HorovodSync(wrapped))
    solver = Descent(wrapped, clip)
    return Engine(sharded, solver, Live(sharded, solver))


def join(mesh: Mesh) -> None:
    """Start Horovod on every rank of the world, once a process. Collective."""
    import horovod.torch as hvd

    if hvd.is_initialized():
        return
    hosts: list[str] = [""] * dist.get_world_size()
    dist.all_gather_object(hosts, socket.gethostname())
    served = [serve(hosts) if mesh.rank == 0 else None]
    dist.broadcast_object_list(served)
    assert served[0] is not None
    os.environ.update(surroundings(hosts, mesh.rank, *served[0]))
    hvd.init()


def serve(hosts: list[str]) -> tuple[str, int]:
    """Serve the rendezvous from a thread of this process; its address."""
    from horovod.runner.common.util.hosts import HostInfo, get_host_assignments
    from horovod.runner.http.http_server import RendezvousHandler, RendezvousHTTPServer

    address = "127.0.0.1" if len(set(hosts)) == 1 else socket.gethostbyname(socket.gethostname())
    server = RendezvousHTTPServer((address, 0), RendezvousHandler, False)
    counts = {host: hosts.count(host) for host in hosts}
    server.init(get_host_assignments([HostInfo(host, count) for host, count in counts.items()], len(hosts)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return address, server.server_address[1]


def surroundings(hosts: list[str], rank: int, address: str, port: int) -> dict[str, str]:
    """What Horovod reads of its place in the world; ranks of one host are consecutive."""
    names = list(dict.fromkeys(hosts))
    place = {
        "RANK": rank,
        "SIZE": len(hosts),
        "LOCAL_RANK": hosts[:rank].count(hosts[rank]),
        "LOCAL_SIZE": hosts.count(hosts[rank]),
        "CROSS_RANK": names.index(hosts[rank]),
        "CROSS_SIZE": len(names),
        "HOSTNAME": hosts[rank],
        "CONTROLLER": "gloo",
        "CPU_OPERATIONS": "gloo",
        "GLOO_RENDEZVOUS_ADDR": address,
        "GLOO_RENDEZVOUS_PORT": port,
    }
    interface = os.environ.get("GLOO_SOCKET_IFNAME", "")
    found = {f"HOROVOD_{name}": str(value) for name, value in place.items()}
    return found | ({"HOROVOD_GLOO_IFACE": interface} if interface else {})
