"""Does a rank's door open to the right task, and does everything it says get out?"""

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from shardwright.jobs.assignment import Assignment
from shardwright.jobs.events import read
from shardwright.jobs.worker import Channel, Progress, StopSignal, load_task
from shardwright.trainers.world import Worker


def introduce(worker: Worker) -> dict[str, Any]:
    import torch

    print("printed by", worker.rank)
    os.write(2, b"written below Python\n")
    return {
        "device": str(worker.device),
        "place": [worker.rank, worker.local_rank, worker.world_size, worker.attempt],
        "threads": torch.get_num_threads(),
        "snapshots": str(worker.snapshots),
        "stop": worker.stop(),
    }


def raise_exit(worker: Worker) -> None:
    worker.tell("phase", name="leaving")
    raise SystemExit("a task does not leave by itself")


def return_tensor(worker: Worker) -> Any:
    import torch

    return torch.ones(2)


def hear_signals(worker: Worker, number: int) -> list[str]:
    before = worker.stop()
    os.kill(os.getpid(), number)
    os.kill(os.getpid(), signal.SIGINT)
    return [before, worker.stop()]


def assignment(task: str, folder: Path, rank: int = 0, **fields: Any) -> Assignment:
    events = folder / f"attempt-007-rank-{rank:03d}.jsonl"
    return Assignment(f"{__file__}:{task}", rank, 2, log=str(folder / f"{rank}.log"), events=str(events), **fields)


def attempt(pool: Any, assignments: list[Assignment]) -> list[Any]:
    """Messages of a whole group."""
    group = pool.start(assignments)
    messages = []
    while group.alive and (message := group.next(60)):
        messages.append(message)
    return messages


def test_an_assignment_reaches_the_task(pool, tmp_path):
    work = [
        assignment("introduce", tmp_path, rank, local_rank=rank, attempt=7, threads=2, snapshots="/dev/shm/x")
        for rank in range(2)
    ]
    messages = attempt(pool, work)
    results = {message.rank: message.fields["value"] for message in messages if message.kind == "result"}
    assert results[1] == {
        "device": "cpu",
        "place": [1, 1, 2, 7],
        "threads": 2,
        "snapshots": "/dev/shm/x",
        "stop": "",
    }
    assert (tmp_path / "1.log").read_text() == "printed by 1\nwritten below Python\n"
    assert [event.kind for event in read(tmp_path) if event.rank == 1] == ["start", "phase", "phase"]
    start = next(event for event in read(tmp_path) if event.kind == "start" and event.rank == 1)
    assert start["world_size"] == 2 and start["pid"] != os.getpid() and start.attempt == 7


@pytest.mark.parametrize(("task", "kind"), [("raise_exit", "SystemExit"), ("return_tensor", "TypeError")])
def test_every_end_of_a_task_is_reported(pool, tmp_path, task, kind):
    messages = attempt(pool, [assignment(task, tmp_path, rank) for rank in range(2)])
    failures = [message.fields for message in messages if message.kind == "failure"]
    assert {failure["type"] for failure in failures} == {kind}
    assert {failure["rank"] for failure in failures} <= {0, 1}
    assert task in (tmp_path / "0.log").read_text() or kind in (tmp_path / "0.log").read_text()
    recorded = [event for event in read(tmp_path) if event.kind == "failure"]
    assert recorded and recorded[0]["traceback"] == failures[0]["traceback"]
    assert all(message.fields["code"] == 1 for message in messages if message.kind == "gone")


@pytest.mark.parametrize(("number", "reason"), [(signal.SIGTERM, "stop"), (signal.SIGUSR1, "preempted")])
def test_signals_are_noted_and_nothing_else(ranks, number, reason):
    assert ranks(hear_signals, 1, number=int(number)) == [["", reason]]


def test_the_first_reason_stays():
    stop = StopSignal()
    stop._note(signal.SIGUSR1, None)
    stop._note(signal.SIGTERM, None)
    assert stop() == "preempted"


def test_a_task_is_found_by_module_or_file(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text("def task(worker): return 1\n")
    assert load_task(f"{file}:task")(None) == 1
    assert load_task("json:dumps") is json.dumps
    with pytest.raises(ValueError, match=r"has no function 'tusk'"):
        load_task(f"{file}:tusk")
    with pytest.raises(ValueError, match="there is no file"):
        load_task(f"{tmp_path}/other.py:task")
    with pytest.raises(ValueError, match=r"not of the form package\.module:name"):
        load_task("json")


def test_progress_notes_phase_and_step_and_passes_everything_on():
    heard: list[str] = []
    progress = Progress(lambda kind, /, **fields: heard.append(kind), lambda kind, /, **fields: heard.append(kind))
    progress.tell("resume", step=4)
    progress.tell("phase", name="eval")
    assert (progress.phase, progress.step) == ("eval", 4)
    progress.tell("step", step=5)
    assert progress.step == 5 and heard == ["resume", "resume", "phase", "phase", "step", "step"]


def test_a_full_pipe_drops_events_whole():
    reader, writer = os.pipe()
    channel = Channel(writer)
    for number in range(1000):
        channel.tell("step", step=number, filling="x" * 1000)
    channel.tell("step", step=-1, filling="x" * 5000)  # would be torn
    os.close(writer)
    with os.fdopen(reader, "rb") as stream:
        steps = [json.loads(line)["step"] for line in stream]
    assert steps == list(range(len(steps))) and 10 < len(steps) < 1000


def test_nobody_listening_is_no_error():
    reader, writer = os.pipe()
    os.close(reader)
    channel = Channel(writer)
    channel.tell("step", step=1)
    channel.report("result", value=1)
    os.close(writer)
