"""How long from SIGKILL of one of 4 workers to the first new step, ours and torchrun's?

Ours is a real run: supervisor, zygote, snapshots, ZeRO-3, a checkpoint every 5 steps. The peer is the same model in a
plain FSDP2 script with a DCP checkpoint every 5 steps, restarted by torchrun, which restarts gloo workers only with
TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 and so gets it. A step of the 1M model takes about 0.15 s on two free cores. Both
alternate; each kill takes another rank, at any moment of a step, some steps behind a checkpoint. The first new step is
the first that the slowest rank finishes after the kill in the new attempt, whether or not it was done before: that
favours the peer.

python benchmarks/recovery.py [--rounds N] [--sizes 1M 20M]
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import shardwright as sw
from figure import Figure, report, spread
from shardwright.jobs.events import read
from shardwright.trainers.checkpoint.manifest import read as read_manifest

RANKS, EVERY, STEPS, KILL_AFTER = 4, 5, 30, 18
DEADLINE = 600.0
POLL = 0.1  # seconds; the times are in the records, and looking must not take the processor from the workers
RATIO = 0.15
STAGES = ("attempt", "start", "data", "parallelize", "restore", "resume", "train")  # of a worker, in order


@dataclass(frozen=True)
class Size:
    """A model and its batch."""

    config: Mapping[str, int]
    samples: int  # of one rank in one step
    rounds: int
    most: float | None  # the ratio's bound; None: reported
    tokens: int = 128


SIZES = {
    "1M": Size({}, 4, 7, RATIO),
    "20M": Size({"width": 512, "layers": 6, "heads": 8}, 1, 3, None),
}


@dataclass(frozen=True)
class Recovery:
    """What one kill cost."""

    seconds: float  # from the kill to the first new step of the slowest rank
    lost: int  # steps done by any rank before the kill that were taken back
    stages: Mapping[str, float] = field(default_factory=dict)  # what had happened so many seconds after the kill
    weights: Sequence[str] = ()  # checksums of the last checkpoint's files


@dataclass(frozen=True)
class Step:
    """A rank finished a step."""

    t: float
    rank: int
    pid: int
    step: int


def wait_for(condition: Callable[[], Any]) -> Any:
    """What the condition gives, once it gives something."""
    until = time.monotonic() + DEADLINE
    while not (found := condition()):
        if time.monotonic() > until:
            raise TimeoutError(f"nothing happened within {DEADLINE:.0f} s")
        time.sleep(POLL)
    return found


def strike(steps: Callable[[], list[Step]], victim: int, seed: int) -> float:
    """SIGKILL a rank at any moment of a step that follows KILL_AFTER; when it was."""
    done = wait_for(lambda: [step for step in steps() if step.rank == victim and step.step >= KILL_AFTER])
    pace = (done[0].t - min(step.t for step in steps())) / KILL_AFTER
    time.sleep(random.Random(seed).uniform(0.0, pace))
    killed = time.time()
    os.kill(done[0].pid, signal.SIGKILL)
    return killed


def first_new(steps: Callable[[], list[Step]], old: set[int]) -> list[Step]:
    """Each rank's first step in a process that is none of the old ones, once all have one."""

    def found() -> list[Step]:
        new = sorted((step for step in steps() if step.pid not in old), key=lambda step: step.t, reverse=True)
        first = {step.rank: step for step in new}
        return list(first.values()) if len(first) == RANKS else []

    result: list[Step] = wait_for(found)
    return result


def recover(steps: Callable[[], list[Step]], victim: int, seed: int) -> tuple[float, Recovery]:
    """Kill and watch; when the kill was, and what it cost."""
    killed = strike(steps, victim, seed)
    old = {step.pid for step in steps()}
    new = first_new(steps, old)
    done = max(step.step for step in steps() if step.pid in old)
    lost = max(0, done + 1 - min(step.step for step in new))
    return killed, Recovery(max(step.t for step in new) - killed, lost)


def our_job(size: Size, folder: Path) -> dict[str, Any]:
    """The job of our side."""
    return {
        "run": {"name": "ours", "folder": str(folder)},
        "model": {"name": "gpt2", "preset": "tiny", "config": dict(size.config)},
        "data": {"sequence_length": size.tokens},
        "train": {"steps": STEPS, "global_batch": size.samples * RANKS, "micro_batch": size.samples},
        "checkpoint": {"every": EVERY},
        "eval": {"batches": 1},
        "parallel": {"zero": 3, "shard": RANKS},
        "resources": {"workers": RANKS, "device": "cpu"},
    }


def ours(size: Size, folder: Path, victim: int | None, seed: int = 0) -> Recovery:
    """One run to its end, with a kill where there is a victim."""
    handle = sw.run(our_job(size, folder))
    pids: dict[tuple[int, int], int] = {}

    def steps() -> list[Step]:
        events = read(handle.run.events)
        pids.update({(event.attempt, event.rank): event["pid"] for event in events if event.kind == "start"})
        return [
            Step(event.t, event.rank, pids[event.attempt, event.rank], event["step"])
            for event in events
            if event.kind == "step"
        ]

    killed, found = (0.0, Recovery(0.0, 0)) if victim is None else recover(steps, victim, seed)
    status, path = handle.wait(DEADLINE), handle.checkpoint()
    if status.state != "finished" or path is None:
        raise RuntimeError(f"our run {status.state} at step {status.step}: {status.report}")
    weights = [file.sha256 for file in read_manifest(path).files]
    return Recovery(found.seconds, found.lost, stages(handle.run.events, killed), weights)


def stages(events: Path, killed: float) -> dict[str, float]:
    """Seconds after the kill until the last rank of the second attempt had come so far."""
    came: dict[str, dict[int | None, float]] = {}
    for event in read(events):
        name = event.get("name", "") if event.kind == "phase" else event.kind
        if event.attempt == 1 and name in STAGES:
            came.setdefault(name, {}).setdefault(event.rank, event.t - killed)
    return {name: max(came[name].values()) for name in STAGES if name in came}


def torchrun(size: Size, folder: Path, victim: int, seed: int) -> Recovery:
    """One run of the peer to its end, with a kill."""
    job = {"config": dict(size.config), "samples": size.samples, "tokens": size.tokens, "steps": STEPS, "every": EVERY}
    script = Path(__file__).with_name("recovery_torchrun.py")
    options = ["--standalone", f"--nproc-per-node={RANKS}", "--max-restarts=3"]
    with (folder / "torchrun.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "torch.distributed.run", *options, str(script), str(folder), json.dumps(job)],
            env={
                **os.environ,
                "OMP_NUM_THREADS": "1",
                "GLOO_SOCKET_IFNAME": "lo",
                "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
            },
            stdout=log,
            stderr=log,
        )
    try:
        _, found = recover(lambda: peer_steps(folder), victim, seed)
        code = process.wait(DEADLINE)
    finally:
        process.kill()
    if code:
        raise RuntimeError(f"torchrun left with {code}:\n{(folder / 'torchrun.log').read_text()[-3000:]}")
    return found


def peer_steps(folder: Path) -> list[Step]:
    """What the peer's ranks wrote so far; a torn last line is left for later."""
    found = []
    for rank in range(RANKS):
        file = folder / f"rank-{rank}.jsonl"
        whole = file.read_text().rpartition("\n")[0] if file.exists() else ""
        lines = [json.loads(line) for line in whole.splitlines()]
        found += [Step(line["t"], rank, line["pid"], line["step"]) for line in lines if line["new"]]
    return found


def measure(title: str, size: Size, rounds: int) -> list[Figure]:
    """Rounds of ours and the peer in turn, and an unfailed twin of ours."""
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        twin = ours(size, root, victim=None)
        runs, peers = [], []
        for number in range(rounds):
            runs.append(ours(size, root, number % RANKS, seed=number))
            (root / f"peer-{number}").mkdir()
            peers.append(torchrun(size, root / f"peer-{number}", number % RANKS, seed=number))
    ratios = spread([mine.seconds / peer.seconds for mine, peer in zip(runs, peers, strict=True)])
    reached = {name: median(run.stages[name] for run in runs) for name in STAGES}
    detail = ratios | {
        "ours_seconds": spread([run.seconds for run in runs]),
        "torchrun_seconds": spread([run.seconds for run in peers]),
        "ours_reached_after": {name: round(seconds, 3) for name, seconds in reached.items()},
        "torchrun_steps_lost": max(run.lost for run in peers),
    }
    equal = sum(run.weights == twin.weights for run in runs)
    return [
        Figure("recovery", f"SIGKILL to new step / torchrun, {title}", ratios["median"], "x", size.most, detail=detail),
        Figure("recovery", f"steps lost at most, {title}", max(run.lost for run in runs), "steps", 1),
        Figure("recovery", f"runs with final weights bit-equal, {title}", equal, f"of {rounds}", least=rounds),
    ]


def main() -> None:
    """Measure each size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, help="of each size; default: 7 of 1M, 3 of 20M")
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    asked = parser.parse_args()
    report(
        figure for title in asked.sizes for figure in measure(title, SIZES[title], asked.rounds or SIZES[title].rounds)
    )


if __name__ == "__main__":
    main()
