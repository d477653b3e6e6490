"""The peer of recovery.py: the same model in a plain FSDP2 script, with a DCP checkpoint every few steps.

torchrun --standalone --nproc-per-node 4 --max-restarts 3 recovery_torchrun.py FOLDER JOB

JOB is JSON: {"config", "samples", "tokens", "steps", "every"}. Each rank appends a line per start and step to
FOLDER/rank-R.jsonl: {"t", "pid", "step"}.
"""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from shardwright.models.catalog import configure, find
from shardwright.models.program import build
from torch import nn
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.fsdp import fully_shard


def main(folder: Path, job: dict[str, Any]) -> None:
    """Train; go on from the newest whole checkpoint."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    model = sharded(job["config"])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    start = restore(model, optimizer, folder)
    with (folder / f"rank-{rank}.jsonl").open("a", buffering=1) as log:
        for step in range(start, job["steps"] + 1):
            if step > start:
                train_step(model, optimizer, batch(job, step, rank))
            log.write(json.dumps({"t": time.time(), "pid": os.getpid(), "step": step, "new": step > start}) + "\n")
            if step > start and step % job["every"] == 0:
                save(model, optimizer, folder, step)
    dist.barrier()
    sys.stdout.flush()
    os._exit(0)  # gloo may abort in its own teardown


def sharded(config: dict[str, Any]) -> nn.Module:
    """The model, block by block under FSDP2."""
    torch.manual_seed(0)
    entry = find("gpt2")
    model = build(entry, configure(entry, "tiny", config))
    for block in model.blocks.values():
        fully_shard(block)
    return fully_shard(model)


def batch(job: dict[str, Any], step: int, rank: int) -> dict[str, torch.Tensor]:
    """This rank's samples of a step: random text costs the peer less than reading."""
    generator = torch.Generator().manual_seed(step * 1000 + rank)
    text = torch.randint(0, 256, (job["samples"], job["tokens"] + 1), generator=generator)
    return {"inputs": text[:, :-1], "targets": text[:, 1:]}


def train_step(model: nn.Module, optimizer: torch.optim.Optimizer, batch: dict[str, torch.Tensor]) -> None:
    """One update."""
    total, count = model(batch)["loss"]
    (total / count).backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()


def save(model: nn.Module, optimizer: torch.optim.Optimizer, folder: Path, step: int) -> None:
    """Into a fresh folder, which is whole once it has its .metadata; a save that was killed left one without."""
    weights, state = get_state_dict(model, optimizer)
    dcp.save({"model": weights, "optimizer": state}, checkpoint_id=folder / f"step-{step:06d}")


def restore(model: nn.Module, optimizer: torch.optim.Optimizer, folder: Path) -> int:
    """Steps done."""
    whole = sorted(path.parent for path in folder.glob("step-*/.metadata"))
    if not whole:
        return 0
    weights, state = get_state_dict(model, optimizer)
    dcp.load({"model": weights, "optimizer": state}, checkpoint_id=whole[-1])
    set_state_dict(model, optimizer, model_state_dict=weights, optim_state_dict=state)
    return int(whole[-1].name.removeprefix("step-"))


if __name__ == "__main__":
    main(Path(sys.argv[1]), json.loads(sys.argv[2]))
