"""Does a run come back from what can happen to its workers, and end where nothing helps? With real processes."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from shardwright.cluster.local import Workers
from shardwright.cluster.pool import Pool
from shardwright.cluster.processes import is_running
from shardwright.cluster.supervisor import Ended, Order, Outcome, Running, Stopping, Supervisor
from shardwright.jobs.events import read
from shardwright.jobs.run_folder import RunFolder, create
from shardwright.jobs.spec import RecoveryOptions

COUNT = f"{Path(__file__).with_name('counting.py')}:count"
RANKS = 3


def total_after(steps: int) -> list[float]:
    total = 0.0
    for step in range(1, steps + 1):
        total = total * 1.01 + sum(step * (rank + 1.0) for rank in range(RANKS))
    return [total] * 3


def fault(kind: str, *ranks: int, step: int = 4, attempts: tuple[int, ...] = (0,)) -> dict[str, Any]:
    return {"kind": kind, "ranks": ranks, "step": step, "attempts": attempts}


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return create(tmp_path, "counting", "")


@pytest.fixture
def supervisor(pool: Pool, folder: RunFolder) -> Callable[..., Supervisor]:
    def make(*faults: dict[str, Any], steps: int = 8, pause: float = 0.0, **recovery: Any) -> Supervisor:
        payload = {"steps": steps, "pause": pause, "faults": faults}
        order = Order(folder, RANKS, COUNT, payload, RecoveryOptions(**recovery), resume=f"resume {folder.name}")
        return Supervisor(order, pool.start)

    return make


def finish(supervisor: Supervisor) -> Outcome:
    with supervisor:
        return supervisor.run()


def supervisor_events(folder: RunFolder) -> list[tuple[str, dict[str, Any]]]:
    return [(event.kind, dict(event.fields)) for event in read(folder.events) if event.rank is None]


def pids(folder: RunFolder) -> list[int]:
    return [event["pid"] for event in read(folder.events) if event.kind == "start"]


def test_a_run_finishes(supervisor, folder):
    outcome = finish(supervisor())
    assert (outcome.state, outcome.step, outcome.report) == ("finished", 8, "")
    assert list(outcome.results.values()) == [total_after(8)] * RANKS
    assert [kind for kind, _ in supervisor_events(folder)] == ["attempt", "finished"]
    assert len(pids(folder)) == RANKS and not any(map(is_running, pids(folder)))


@pytest.mark.parametrize(("kind", "cause"), [("SIGKILL", "signal 9 (SIGKILL)"), ("SIGSTOP", "stopped: signal 19")])
def test_a_killed_or_stopped_worker_costs_at_most_one_step(supervisor, folder, kind, cause):
    outcome = finish(supervisor(fault(kind, 1)))
    assert outcome.state == "finished"
    assert list(outcome.results.values()) == [total_after(8)] * RANKS
    events = supervisor_events(folder)
    causes = [fields for kind, fields in events if kind == "death" and not fields["victim"]]
    assert [(death["rank"], death["cause"]) for death in causes] == [(1, cause)]
    (restart,) = (fields for kind, fields in events if kind == "restart")
    assert (restart["attempt"], restart["source"]) == (1, "snapshot")
    assert restart["from_step"] in (2, 3)  # of step 3, the slowest rank may not hold a snapshot yet
    assert len(pids(folder)) == 2 * RANKS and not any(map(is_running, pids(folder)))


def test_an_error_that_does_not_come_again_is_survived(supervisor):
    outcome = finish(supervisor(fault("error", 0, 1, 2)))
    assert outcome.state == "finished" and outcome.results[0] == total_after(8)


def test_the_same_error_at_the_same_step_ends_the_run_early(supervisor, folder):
    outcome = finish(supervisor(fault("error", 2, attempts=(0, 1, 2, 3)), max_restarts=9))
    assert outcome.state == "failed"
    assert [kind for kind, _ in supervisor_events(folder)].count("attempt") == 2
    report = outcome.report
    assert "failed twice in the same way" in report and "cause:  rank 2" in report
    assert "ArithmeticError: the planted fault" in report and f"resume {folder.name}" in report
    assert "victim: ranks 0-1" in report and len(report.split("\n")) <= 25
    assert not any(map(is_running, pids(folder)))


def test_restarts_are_counted(supervisor, folder):
    outcome = finish(supervisor(fault("SIGKILL", 1, attempts=tuple(range(9))), max_restarts=2))
    assert outcome.state == "failed" and "recovery.max_restarts = 2 is used up" in outcome.report
    assert [kind for kind, _ in supervisor_events(folder)].count("attempt") == 3


def test_a_silent_worker_counts_as_hung(supervisor, folder):
    outcome = finish(supervisor(fault("sleep", 1), heartbeat=1.0))
    assert outcome.state == "finished" and outcome.results[0] == total_after(8)
    causes = {fields["cause"] for kind, fields in supervisor_events(folder) if kind == "death"}
    assert causes == {"hung: no sign of life for 1 s or more"}
    assert "in bring_about" in folder.log(0, 1).read_text()  # where it hung


def test_without_snapshots_a_restart_begins_anew(supervisor, folder):
    outcome = finish(supervisor(fault("SIGKILL", 1), snapshot_every=0))
    assert outcome.state == "finished" and outcome.results[0] == total_after(8)
    assert [fields["source"] for kind, fields in supervisor_events(folder) if kind == "restart"] == ["scratch"]


def test_a_stop_lets_the_ranks_leave_together(supervisor, folder):
    with supervisor(steps=10**6, pause=0.02) as running:
        run_until_step(running, folder, 3)
        running.stop(30.0)
        outcome = running.run()
    assert outcome.state == "stopped" and set(outcome.results.values()) == {"stopped"}
    assert supervisor_events(folder)[-1][0] == "stopped"
    assert not any(map(is_running, pids(folder)))


def test_a_deaf_rank_does_not_hold_up_a_stop(supervisor, folder):
    with supervisor(fault("deaf", 1), steps=10**6, pause=0.02) as running:
        run_until_step(running, folder, 3)
        running.stop(1.0)
        running.tick(0.1)
        assert isinstance(running.state, Running | Stopping)
        outcome = running.run()
    assert outcome.state == "stopped"
    assert not any(map(is_running, pids(folder)))


def test_a_stop_before_the_first_attempt_starts_nothing(supervisor, folder):
    with supervisor() as waiting:
        waiting.stop(1.0)
        waiting.tick(0.0)
        assert isinstance(waiting.state, Ended)
    assert [kind for kind, _ in supervisor_events(folder)] == ["stopped"] and not pids(folder)


def test_leaving_early_kills_the_workers(supervisor, folder):
    with supervisor(steps=10**6, pause=0.02) as running:
        run_until_step(running, folder, 1)
    assert len(pids(folder)) == RANKS and not any(map(is_running, pids(folder)))


def test_a_dead_zygote_is_replaced(folder):
    order = Order(folder, RANKS, COUNT, {"steps": 30, "pause": 0.05})
    with Workers([], [], "cpu") as workers, Supervisor(order, workers.start) as running:
        run_until_step(running, folder, 2)
        os.kill(workers.pool.pid, signal.SIGKILL)
        outcome = running.run()
    assert outcome.state == "finished" and outcome.results[0] == total_after(30)
    assert not any(map(is_running, pids(folder)))


def run_until_step(supervisor: Supervisor, folder: RunFolder, step: int) -> None:
    while not any(event.kind == "step" and event["step"] >= step for event in read(folder.events)):
        assert not isinstance(supervisor.state, Ended)
        supervisor.tick(0.1)
