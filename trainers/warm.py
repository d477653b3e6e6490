"""What does a first training step load lazily? Do it once, before workers are forked, so that no worker pays for it.

The rehearsal runs on a fake process group, which is a testing interface of torch: without it the workers are only
slower. DTensor caches its plans by mesh, and a mesh of the fake group must never equal a worker's, or the worker would
use the fake group's names: hence axis names that nobody else uses.
"""

import warnings
from importlib import import_module

import torch
import torch.distributed as dist

MODULES = (
    "torch._dynamo",
    "torch.distributed.fsdp",
    "torch.distributed.tensor.parallel",
    "torch.distributed.pipelining",
    "torch.distributed.checkpoint",
    "torch.distributed.checkpoint.state_dict",
    "torch.nn.parallel.distributed",
)
AXES = ("rehearsal_shard", "rehearsal_tensor")


def preload() -> None:
    """Import what parallel training imports."""
    for module in MODULES:
        import_module(module)


def rehearse() -> bool:
    """One forward, backward and step of a small model under tensor parallel and ZeRO-3; False where torch refuses."""
    try:
        store = import_module("torch.testing._internal.distributed.fake_pg").FakeStore()
        dist.init_process_group("fake", store=store, rank=0, world_size=4)
    except (ImportError, AttributeError, ValueError, RuntimeError):
        return False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            _train_once()
    finally:
        dist.destroy_process_group()
    return True


def _train_once() -> None:
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

    # Autograd starts its threads, one a device, at a process's first backward. DTensor's planning makes a CUDA build
    # without a GPU count eight devices from then on, so that backward comes before it, while there is none.
    torch.ones(1, requires_grad=True).sum().backward()
    mesh = dist.device_mesh.init_device_mesh("cpu", (2, 2), mesh_dim_names=AXES)
    model = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.GELU(), torch.nn.Linear(8, 8))
    parallelize_module(model, mesh[AXES[1]], {"0": ColwiseParallel(), "2": RowwiseParallel()})
    fully_shard(model, mesh=mesh[AXES[0]])
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(4, 8)).square().mean().backward()
    optimizer.step()
    optimizer.zero_grad()
