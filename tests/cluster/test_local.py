"""Does a real run on this machine stop, survive and end as promised, with no process left behind in any case?"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import shardwright as sw
from shardwright.cluster.handle import GRACE, Handle
from shardwright.cluster.launch import load_run, resume, stop
from shardwright.cluster.processes import is_running
from shardwright.jobs.events import read
from shardwright.jobs.run_folder import RunError, RunFolder
from shardwright.jobs.spec import JobError
from shardwright.trainers.checkpoint.manifest import read as read_manifest

WORKERS = 2


def job(folder: Path, steps: int) -> dict[str, Any]:
    text = folder / "text.txt"
    text.write_text("".join(f"{number} is followed by {number + 1}.\n" for number in range(4000)))
    sizes = {"width": 16, "layers": 2, "heads": 2, "context": 16}
    return {
        "run": {"name": "small", "folder": str(folder / "runs")},
        "model": {"name": "gpt2", "preset": "tiny", "config": sizes},
        "data": {"name": "text", "path": str(text), "sequence_length": 16, "cache": str(folder / "cache")},
        "train": {"steps": steps, "global_batch": 4, "micro_batch": 2},
        "checkpoint": {"every": 5 if steps > 1000 else 0},
        "parallel": {"zero": 3, "shard": WORKERS},
        "resources": {"workers": WORKERS, "device": "cpu"},
        "track": {"tensorboard": False},
    }


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Callable[[int], Handle]]:
    handles: list[Handle] = []

    def start(steps: int) -> Handle:
        handles.append(sw.run(job(tmp_path, steps)))
        return handles[-1]

    yield start
    for handle in handles:
        if handle.live:
            handle.stop()


def wait_for_step(run: RunFolder, step: int, seconds: float = 120) -> None:
    until = time.monotonic() + seconds
    while not any(event.kind == "step" and event["step"] >= step for event in read(run.events)):
        assert time.monotonic() < until, Handle(run).status
        time.sleep(0.02)


def workers(run: RunFolder) -> list[int]:
    return [event["pid"] for event in read(run.events) if event.kind == "start"]


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()[1])


def family(run: RunFolder) -> list[int]:
    """The supervisor, its zygote and the workers."""
    living = [pid for pid in workers(run) if is_running(pid)]
    zygote = parent(living[0])
    return [parent(zygote), zygote, *living]


def all_gone(pids: list[int], seconds: float) -> bool:
    until = time.monotonic() + seconds
    while any(map(is_running, pids)) and time.monotonic() < until:
        time.sleep(0.01)
    return not any(map(is_running, pids))


def weights(run: RunFolder) -> dict[str, str]:
    """Checksums of the newest checkpoint's files."""
    path = Handle(run).checkpoint()
    assert path is not None
    return {file.name: file.sha256 for file in read_manifest(path).files}


def test_a_killed_and_a_stopped_worker_change_nothing(started):
    plain, struck = started(40), started(40)
    wait_for_step(struck.run, 5)
    os.kill(workers(struck.run)[0], signal.SIGKILL)
    wait_for_step(struck.run, 20)
    os.kill(workers(struck.run)[-1], signal.SIGSTOP)
    assert plain.wait(120).state == struck.wait(120).state == "finished"
    assert [event["source"] for event in read(struck.run.events) if event.kind == "restart"] == ["snapshot"] * 2
    assert weights(plain.run) == weights(struck.run)
    assert [step["loss"] for step in plain.metrics] == [step["loss"] for step in struck.metrics]
    assert json.loads(struck.run.plan.read_text())["workers"] == WORKERS
    assert len(struck.metrics) == 40 and not any(map(is_running, workers(struck.run)))


@pytest.mark.parametrize(
    ("number", "seconds"), [(signal.SIGINT, 5.0), (signal.SIGTERM, GRACE + 5), (signal.SIGHUP, 5.0)]
)
def test_a_wish_to_stop_leaves_a_run_that_goes_on(started, number, seconds):
    handle = started(10**6)
    wait_for_step(handle.run, 6)  # behind the first checkpoint, in case that 5 seconds do not suffice for another
    pids = family(handle.run)
    os.kill(pids[0], number)
    assert all_gone(pids, seconds)
    assert handle.status.state == "stopped"
    path = handle.checkpoint()
    assert path is not None
    if number == signal.SIGTERM:
        assert read_manifest(path).step == handle.status.step
    steps = handle.status.step + 2
    again = resume(handle.run.path, f"train.steps={steps}")
    assert again.wait(120).state == "finished"
    assert [event["source"] for event in read(handle.run.events) if event.kind == "resume"][-1] == "checkpoint"
    assert again.status.step == steps and f"steps = {steps}" in handle.run.spec.read_text()


@pytest.mark.parametrize("victim", [0, 1], ids=["supervisor", "zygote"])
def test_no_orphans_when_an_elder_is_killed(started, victim):
    handle = started(10**6)
    wait_for_step(handle.run, 2)
    pids = family(handle.run)
    os.kill(pids[victim], signal.SIGKILL)
    assert all_gone(pids[1:], 10.0)
    if victim == 0:
        assert handle.status.state == "interrupted" and handle.run.holder() is None
    else:
        wait_for_step(handle.run, 8)  # it goes on with a new zygote
        handle.stop()
        assert all_gone(workers(handle.run), 5.0)


def test_the_same_failure_twice_ends_with_a_block(tmp_path):
    (tmp_path / "mine.py").write_text(
        "import torch\nfrom shardwright import Entry\n"
        "class Data:\n"
        "    def __len__(self): return 64\n"
        "    def __getitem__(self, index):\n"
        "        if index == 40: raise OSError('sample 40 is torn')\n"
        "        return {'x': torch.ones(4)}\n"
        "def build(): return torch.nn.Linear(4, 1)\n"
        "def loss(net, batch):\n    y = net(batch['x'])\n    return y.square().sum(), y.numel()\n"
        "entry, data = Entry(build=build, loss=loss, name='mine'), Data()\n"
    )
    (tmp_path / "job.toml").write_text(
        f'[run]\nfolder = "{tmp_path}/runs"\n[model]\nname = "mine:entry"\n[data]\nname = "mine:data"\n'
        "[train]\nepochs = 1\nglobal_batch = 4\nmicro_batch = 2\n[parallel]\nreplicate = 2\n"
        '[resources]\nworkers = 2\ndevice = "cpu"\n[track]\ntensorboard = false\n'
    )
    handle = sw.run(tmp_path / "job.toml")
    (tmp_path / "mine.py").unlink()  # the run has its own copy
    status = handle.wait(120)
    assert status.state == "failed", status
    assert "failed twice in the same way (OSError)" in status.report and "sample 40 is torn" in status.report
    assert "shardwright resume " in status.report and len(status.report.split("\n")) <= 25
    assert len({event.attempt for event in read(handle.run.events)}) == 2
    assert not any(map(is_running, workers(handle.run)))


def test_ctrl_c_while_waiting_stops_the_run(tmp_path):
    code = (
        "import sys, json, shardwright as sw\n"
        "handle = sw.run(json.loads(sys.argv[1]))\nprint(handle.run.path, flush=True)\nhandle.wait()\n"
    )
    caller = subprocess.Popen(
        [sys.executable, "-c", code, json.dumps(job(tmp_path, 10**6))],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert caller.stdout is not None
    run = RunFolder(Path(caller.stdout.readline().strip()))
    wait_for_step(run, 2)
    pids = family(run)
    caller.send_signal(signal.SIGINT)
    assert caller.wait(30) != 0
    caller.stdout.close()
    assert all_gone(pids, 5.0) and load_run(run.path).status.state == "stopped"


def test_a_handle_tells_what_the_folder_holds(started, tmp_path):
    handle = started(10**6)
    wait_for_step(handle.run, 3)
    found = load_run("small-1", tmp_path / "runs")
    assert found.run.path == handle.run.path and found.live
    assert found.metrics[0]["step"] == 1 and found.metrics[0]["loss"] > 0
    assert found.logs(0) == ""
    with pytest.raises(RunError, match="is live"):
        resume("small-1", folder=tmp_path / "runs")
    with pytest.raises(TimeoutError, match="is still live"):
        found.wait(0.01)
    assert stop("last", tmp_path / "runs").state == "stopped"
    assert not found.live and found.stop().state == "stopped"


def test_a_request_says_what_is_started_and_makes_nothing(tmp_path):
    request = sw.render(job(tmp_path, 5))
    text = str(request)
    assert f"a new folder {tmp_path}/runs/small-N" in text
    assert "-m shardwright.cluster.local RUN" in text and "OMP_NUM_THREADS=1" in text and "ranks 0-1" in text
    assert not (tmp_path / "runs").exists() and not (tmp_path / "cache").exists()


def test_unknown_launchers_are_refused(tmp_path):
    with pytest.raises(JobError, match=r"no launcher 'locol' \(installed: .*local.*\); did you mean local\?"):
        sw.render(job(tmp_path, 5), on="locol")


def test_a_supervisor_that_cannot_start_says_why(started, tmp_path):
    handle = started(10**6)
    wait_for_step(handle.run, 1)
    second = subprocess.run(
        [sys.executable, "-m", "shardwright.cluster.local", str(handle.run.path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert second.returncode == 2 and "is live" in second.stderr and "Traceback" not in second.stderr


def test_an_attached_run_ends_with_its_caller(tmp_path):
    code = (
        "import sys, json, shardwright as sw\n"
        "handle = sw.run(json.loads(sys.argv[1]), attached=True)\nprint(handle.run.path, flush=True)\nhandle.wait()\n"
    )
    caller = subprocess.Popen(
        [sys.executable, "-c", code, json.dumps(job(tmp_path, 10**6))], stdout=subprocess.PIPE, text=True
    )
    assert caller.stdout is not None
    run = RunFolder(Path(caller.stdout.readline().strip()))
    wait_for_step(run, 2)
    pids = family(run)
    caller.kill()
    caller.wait()
    caller.stdout.close()
    assert all_gone(pids, 30.0) and load_run(run.path).status.state == "stopped"
