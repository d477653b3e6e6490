"""Does a call into the pool end, with the right answer or the right blame, and leave nothing behind?"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from shardwright.cluster.call import RankFailure
from shardwright.cluster.group import ZygoteDied
from shardwright.cluster.pool import Pool
from shardwright.cluster.processes import is_running
from shardwright.trainers.world import Worker


def reduce_sum(worker: Worker, scale: float) -> list[float]:
    total = torch.tensor([float(worker.rank)])
    dist.all_reduce(total)
    return [worker.rank, total.item() * scale]


def return_early(worker: Worker) -> int:
    if worker.rank:
        time.sleep(0.3)
        return dist.get_world_size(dist.new_group([1, 2], use_local_synchronization=True))
    return 0


def train_on_two_axes(worker: Worker) -> float:
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

    mesh = dist.device_mesh.init_device_mesh("cpu", (2, 2), mesh_dim_names=("shard", "tensor"))
    model = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.GELU(), torch.nn.Linear(8, 8))
    parallelize_module(model, mesh["tensor"], {"0": ColwiseParallel(), "2": RowwiseParallel()})
    fully_shard(model, mesh=mesh["shard"])
    loss = model(torch.ones(4, 8)).square().mean()
    loss.backward()
    return float(loss)


def fail_on(worker: Worker, rank: int) -> None:
    if worker.rank == rank:
        raise ValueError("the planted fault")
    dist.barrier()


def hang_on(worker: Worker, rank: int) -> None:
    worker.tell("phase", name="napping" if worker.rank == rank else "meeting")
    if worker.rank == rank:
        time.sleep(600)
    dist.barrier()


def signal_oneself(worker: Worker, rank: int, number: int) -> None:
    if worker.rank == rank:
        os.kill(os.getpid(), number)
    dist.barrier()


def start_child(worker: Worker, note: str) -> None:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    Path(note).write_text(str(child.pid))
    time.sleep(600)


def talk(worker: Worker, events: int) -> str:
    for _ in range(events):
        worker.tell("step", step=1, filling="x" * 3000)
    return "y" * 300_000


def stay(worker: Worker, folder: str) -> None:
    Path(folder, str(os.getpid())).touch()
    dist.barrier()
    time.sleep(600)


def wait_for(condition: Callable[[], bool], seconds: float = 30) -> bool:
    until = time.monotonic() + seconds
    while not condition() and time.monotonic() < until:
        time.sleep(0.02)
    return condition()


def test_results_come_by_rank(ranks):
    assert ranks(reduce_sum, 4, scale=0.5) == [[rank, 3.0] for rank in range(4)]
    assert ranks(reduce_sum, 1, scale=2.0) == [[0, 0.0]]


def test_the_store_outlives_a_rank_0_that_is_done_early(ranks):
    assert ranks(return_early, 3) == [0, 2, 2]


def test_the_rehearsal_leaves_no_fake_group_behind(ranks):
    """DTensor's caches compare meshes by value: a plan made on the fake group must not be found again."""
    losses = ranks(train_on_two_axes, 4)
    assert losses == [losses[0]] * 4


def test_the_cause_is_named_and_the_victims_are_not(ranks):
    with pytest.raises(RankFailure) as caught:
        ranks(fail_on, 3, rank=1)
    text = str(caught.value)
    assert "fail_on failed" in text and "cause:  rank 1" in text and "ValueError: the planted fault" in text
    assert "also:" not in text


def test_equal_failures_are_told_once(ranks):
    with pytest.raises(RankFailure, match=r"rank \d .*\(ranks? .*: the same\)"):
        ranks(reduce_sum, 3)


def test_a_late_group_is_killed_and_says_where_it_was(ranks):
    with pytest.raises(RankFailure) as caught:
        ranks(hang_on, 2, deadline=3, rank=1)
    text = str(caught.value)
    assert "late: not finished after 3 s" in text and "phase meeting" in text
    assert "in hang_on" in text  # the stacks of the late ranks
    assert ranks(reduce_sum, 2, scale=1.0) == [[0, 1.0], [1, 1.0]]


@pytest.mark.parametrize(("number", "cause"), [(signal.SIGKILL, "SIGKILL"), (signal.SIGSTOP, "stopped")])
def test_a_killed_or_stopped_rank_is_the_cause(ranks, number, cause):
    with pytest.raises(RankFailure) as caught:
        ranks(signal_oneself, 3, rank=2, number=int(number))
    assert "cause:  rank 2" in str(caught.value) and cause in str(caught.value)


def test_children_of_a_worker_die_with_it(ranks, tmp_path):
    note = tmp_path / "pid"
    with pytest.raises(RankFailure, match="late"):
        ranks(start_child, 1, deadline=3, note=str(note))
    assert wait_for(lambda: not is_running(int(note.read_text())))


def test_a_flood_of_events_neither_blocks_nor_tears_the_result(ranks):
    assert [len(text) for text in ranks(talk, 2, events=2000)] == [300_000] * 2


def test_nothing_survives_a_closed_pool(tmp_path):
    pool = Pool()
    assert pool.ready(60)
    pool.close()
    assert not is_running(pool.pid)


@pytest.mark.parametrize("victim", ["zygote", "owner"])
def test_workers_die_with_the_zygote_and_with_its_owner(tmp_path, victim):
    code = (
        "import sys; from shardwright.cluster.pool import Pool; pool = Pool(); print(pool.pid, flush=True);"
        f"pool.run({f'{__file__}:stay'!r}, 2, {{'folder': sys.argv[1]}}, 600)"
    )
    owner = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert owner.stdout is not None
    zygote = int(owner.stdout.readline())
    assert wait_for(lambda: len(list(tmp_path.iterdir())) == 2)
    workers = [int(path.name) for path in tmp_path.iterdir()]
    assert all(is_running(pid) for pid in workers)
    os.kill(zygote if victim == "zygote" else owner.pid, signal.SIGKILL)
    assert wait_for(lambda: not any(is_running(pid) for pid in [zygote, *workers]))
    owner.wait(10)
    owner.stdout.close()


def test_a_dead_zygote_is_an_error_not_a_hang():
    with Pool() as pool:
        assert pool.ready(60)
        os.kill(pool.pid, signal.SIGKILL)
        with pytest.raises(ZygoteDied, match="exit status -9"):
            pool.run(f"{__file__}:reduce_sum", 2, {"scale": 1.0})


def test_a_module_that_starts_a_thread_is_left_to_the_workers(tmp_path):
    (tmp_path / "threaded.py").write_text(
        "import threading, time\nthreading.Thread(target=time.sleep, args=(600,), daemon=True).start()\n"
        "def count(worker): return threading.active_count()\n"
    )
    (tmp_path / "broken.py").write_text("raise OSError('no such device')\n")
    with Pool(["threaded", "broken"], paths=[str(tmp_path)]) as pool:
        assert pool.run("threaded:count", 1) == [2]
        assert pool.left_out == {"broken": "OSError: no such device", "threaded": "it starts a thread"}
