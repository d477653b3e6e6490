"""A run that never ran: the events of four workers, one killed, written by the real writer on a pretended clock."""

import random
from dataclasses import dataclass, field
from math import exp
from pathlib import Path

from shardwright.jobs.events import EventFile, file_name
from shardwright.jobs.run_folder import RunFolder, create

SPEC = """\
[run]
name = "{name}"                  # gpt.toml:3
seed = {seed}                      # default

[model]
name = "gpt2"                   # gpt.toml:6
preset = "tiny"                 # command line

[data]
sequence_length = 128           # default

[train]
steps = {steps}                    # gpt.toml:12
# tokens =                      # default
global_batch = 32               # gpt.toml:13
micro_batch = "auto"            # default

[optimizer]
name = "adamw"                  # default
lr = {lr}                      # gpt.toml:20
betas = [0.9, 0.95]             # default

[parallel]
zero = 3                        # profile ~/.config/shardwright/profile.toml:2
shard = 2                       # gpt.toml:24
tensor = 2                      # gpt.toml:25
"""
TRACEBACK = """Traceback (most recent call last):
  File "/home/me/model.py", line 31, in forward
    return self.head(x) @ self.missing
AttributeError: 'GPT' object has no attribute 'missing'
"""


@dataclass
class Pretended:
    """Writes a run's events; `now` is the clock of every writer."""

    run: RunFolder
    steps: int = 300
    ranks: int = 4
    seed: int = 0
    now: float = 1_790_000_000.0
    attempt: int = 0
    chance: random.Random = field(init=False)

    def __post_init__(self) -> None:
        self.chance = random.Random(self.seed)
        self.files: dict[tuple[int, int | None], EventFile] = {}

    def tell(self, rank: int | None, kind: str, /, **fields: object) -> None:
        """One event of a rank (None: the supervisor) of this attempt."""
        key = self.attempt, rank
        if key not in self.files:
            self.files[key] = EventFile(self.run.events / file_name(*key), lambda: self.now)
        self.files[key](kind, **fields)

    def everyone(self, kind: str, /, **fields: object) -> None:
        """The same event from every rank."""
        for rank in range(self.ranks):
            self.tell(rank, kind, **fields)

    def begin(self, source: str = "scratch", step: int = 0) -> None:
        """An attempt up to its first step."""
        self.tell(None, "attempt", attempt=self.attempt, world_size=self.ranks)
        self.now += 0.12
        for rank in range(self.ranks):
            self.tell(rank, "start", attempt=self.attempt, rank=rank, world_size=self.ranks, host="node-a",
                      pid=900 + rank, layout="zero3x2_tensor2", device="cpu", torch="2.13.0")  # fmt: skip
        for phase, seconds in (("build", 0.3), ("parallelize", 0.2), ("restore", 0.1)):
            self.everyone("phase", name=phase)
            self.now += seconds
        self.everyone("resume", step=step, source=source, path="")
        self.everyone("phase", name="train")

    def step(self, step: int, seconds: float = 0.11) -> None:
        """One step; rank 3 is a little slower than the others."""
        seconds *= self.chance.uniform(0.95, 1.15)
        self.now += seconds
        noise = self.chance.gauss(0, 0.02)
        loss = 1.72 + 3.85 * exp(-step / (self.steps / 12)) + 0.25 * exp(-step / self.steps) + noise
        for rank in range(self.ranks):
            own = seconds * (1.0 if rank == 3 else 0.985 - 0.003 * rank)
            spent = {
                "data": 0.001,
                "compute": own * 0.785,
                "optimizer": own * 0.18,
                "snapshot": 0.002,
                "report": 0.0004,
            }
            self.tell(rank, "step", step=step, loss=loss if rank == 0 else None, lr=self.lr(step), tokens=4096,
                      samples=32, grad_norm=0.6 + 2 * exp(-step / 20) + abs(noise) * 4, seconds=own, spent=spent,
                      peak_bytes=(310 + rank) << 20)  # fmt: skip

    def lr(self, step: int) -> float:
        """Warm-up, then a straight line down."""
        return 3e-3 * min(1, step / 30) * (1 - 0.9 * step / self.steps)

    def evaluate(self, step: int) -> None:
        """A validation loss."""
        self.everyone("phase", name="eval")
        self.now += 0.4
        loss = 1.79 + 3.8 * exp(-step / (self.steps / 11)) + 0.23 * exp(-step / self.steps)
        self.everyone("eval", step=step, loss=loss, bits_per_byte=loss / 0.6931, seconds=0.4)
        self.everyone("phase", name="train")

    def checkpoint(self, step: int) -> None:
        """A checkpoint."""
        self.now += 0.25
        self.everyone("checkpoint", step=step, path=f"checkpoints/step-{step:09d}", seconds=0.25, bytes=9_700_000)

    def train(self, first: int, last: int) -> None:
        """Steps first to last with what belongs between them."""
        for step in range(first, last + 1):
            self.step(step)
            if step % 50 == 0:
                self.evaluate(step)
            if step % 100 == 0:
                self.checkpoint(step)

    def kill(self, rank: int, step: int, resume_at: int) -> None:
        """A worker dies in flight and the group starts again from a snapshot."""
        self.now += 0.05
        self.tell(None, "death", rank=rank, pid=900 + rank, cause="signal 9", phase="train", step=step)
        self.tell(None, "restart", attempt=self.attempt + 1, from_step=resume_at, source="snapshot")
        self.attempt += 1
        self.begin("snapshot", resume_at)

    def finish(self) -> None:
        """The end with a sample."""
        self.everyone("phase", name="sample")
        self.now += 0.6
        self.tell(
            0, "sample", prompt="def read(", text='path):\n    """Read <all> of a file & return it."""\n    with open'
        )
        self.everyone("end", step=self.steps, reason="finished")
        self.now += 0.05
        self.tell(None, "finished")


def pretend(root: Path, name: str = "gpt", steps: int = 300, seed: int = 0, lr: str = "3e-3") -> Pretended:
    """A new run folder whose events are still to be told."""
    spec = SPEC.format(name=name, steps=steps, seed=seed, lr=lr)
    plan = {"parameters": 806_912, "workers": 4, "layout": "zero3x2_tensor2"}
    return Pretended(create(root, name, spec, plan=plan), steps=steps, seed=seed)


def finished(root: Path, name: str = "gpt", steps: int = 300, seed: int = 0, lr: str = "3e-3") -> RunFolder:
    """A run that lost a worker at two thirds and finished."""
    run = pretend(root, name, steps, seed, lr)
    killed = steps * 2 // 3 - 10
    run.begin()
    run.tell(0, "data", files=640, bytes=10_903_114, bytes_per_token=1.0, unigram_entropy=3.24, identity="5f3a")
    run.tell(0, "micro_batch", size=16, estimate=16)
    run.train(1, killed)
    run.kill(rank=2, step=killed + 1, resume_at=killed - 1)
    run.train(killed, steps)
    run.finish()
    return run.run


def failed(root: Path, name: str = "broken") -> RunFolder:
    """A run whose model raises on two ranks at the same step."""
    run = pretend(root, name)
    run.begin()
    run.train(1, 4)
    for rank in (1, 3):
        run.tell(rank, "failure", rank=rank, host="node-a", phase="train", step=5, type="AttributeError",
                 message="'GPT' object has no attribute 'missing'", traceback=TRACEBACK)  # fmt: skip
    run.tell(None, "death", rank=1, pid=901, cause="exit 1", phase="train", step=5)
    run.tell(None, "give_up", reason="rank 1 failed the same way at step 5 twice")
    return run.run
