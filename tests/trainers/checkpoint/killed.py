"""A script: a child saves without end, is killed at a random moment, again and again; what is left is looked at.

    python killed.py snapshot|checkpoint FOLDER ROUNDS

Every tensor of step s holds s everywhere, so a mixture of two steps is seen. Prints what it saw as JSON.
"""

import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from shardwright.trainers.checkpoint.manifest import listing
from shardwright.trainers.checkpoint.snapshot import Slots, committed
from shardwright.trainers.checkpoint.store import load, save

SIZES = {"snapshot": 2_000_000, "checkpoint": 500_000}  # long enough to be killed inside a copy


def tensors(kind: str) -> dict[str, torch.Tensor]:
    return {f"w{i}": torch.zeros(SIZES[kind] // 4) for i in range(4)}


def set_all(state: dict[str, torch.Tensor], step: int) -> None:
    for tensor in state.values():
        tensor.fill_(step)


def write_snapshots(folder: Path) -> None:
    state = tensors("snapshot")
    slots = Slots(folder, state)
    step = max(committed(folder), default=0)
    if step:
        slots.read(step)
    while True:
        step += 1
        set_all(state, step)
        slots.write(step, {"step": step})


def write_checkpoints(root: Path) -> None:
    state = tensors("checkpoint")
    step = max((found.step for found in listing(root)), default=0)
    while True:
        step += 1
        set_all(state, step)
        save(root, step, state, {"step": step}, attempt=0, keep=2)


def look_at_snapshots(folder: Path) -> list[int]:
    held, state = committed(folder), tensors("snapshot")
    for step in held:
        host = Slots(folder, state).read(step)
        check(state, step, host)
    return held


def look_at_checkpoints(root: Path) -> list[int]:
    state = tensors("checkpoint")
    for found in listing(root):
        check(state, found.step, load(found.path, state))
    return [found.step for found in listing(root)]


def check(state: dict[str, torch.Tensor], step: int, host: dict[str, object]) -> None:
    if host != {"step": step} or not all(bool((tensor == step).all()) for tensor in state.values()):
        raise SystemExit(
            f"step {step} came back as {host} and {[tensor.unique().tolist() for tensor in state.values()]}"
        )


def kill_one(write: Callable[[Path], None], folder: Path, seconds: float) -> None:
    child = os.fork()
    if not child:
        try:
            write(folder)
        finally:
            os._exit(1)
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    if os.WIFEXITED(os.waitpid(child, 0)[1]):
        raise SystemExit("the writer failed by itself")


def main(kind: str, folder: Path, rounds: int) -> None:
    torch.set_num_threads(1)
    write, look = {
        "snapshot": (write_snapshots, look_at_snapshots),
        "checkpoint": (write_checkpoints, look_at_checkpoints),
    }[kind]
    chance, newest, torn = random.Random(0), 0, 0
    for _ in range(rounds):
        kill_one(write, folder, chance.uniform(0.01, 0.15))
        held = look(folder)
        if newest and max(held, default=0) < newest:
            raise SystemExit(f"step {newest} was lost, {held} are left")
        newest = max(held, default=0)
        torn += len(held) < 2
    print(json.dumps({"newest": newest, "torn": torn}))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
