"""Every second of a run has exactly one name."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from recorded import failed, finished, pretend
from shardwright.jobs.account import LOST, RECOVERY, UNEXPLAINED, Account, account
from shardwright.jobs.events import Event, read
from shardwright.jobs.history import history


def account_of(run) -> Account:
    return account(history(read(run.events)))


def test_the_seconds_of_every_rank_sum_to_the_wall_time(tmp_path):
    found = account_of(finished(tmp_path))
    assert found.wall == pytest.approx(40, abs=2)
    assert sum(found.seconds.values()) == pytest.approx(found.wall)
    for seconds in found.ranks.values():
        assert sum(seconds.values()) == pytest.approx(found.wall)
    assert found.unexplained < 0.02


def test_a_death_costs_lost_work_and_recovery(tmp_path):
    run = pretend(tmp_path, steps=20)
    run.begin()
    run.train(1, 10)
    died = run.now + 0.05
    run.kill(rank=1, step=11, resume_at=8)
    first_step = run.now
    run.train(9, 10)
    run.finish()
    found = account_of(run.run)
    lost = [step["seconds"] for step in history(read(run.run.events)).replayed[3]]
    assert len(lost) == 2
    assert found.ranks[3][LOST] == pytest.approx(sum(lost) + 0.05, abs=1e-6)
    assert found.ranks[3][RECOVERY] == pytest.approx(first_step - died, abs=1e-6)


def test_a_pause_between_two_sessions_is_no_wall_time(tmp_path):
    run = pretend(tmp_path, steps=20)
    begun = run.now
    run.begin()
    run.train(1, 10)
    run.tell(None, "stopped")
    first = run.now - begun
    run.now += 86400
    run.attempt += 1
    begun = run.now
    run.begin("checkpoint", 10)
    run.train(11, 20)
    run.finish()
    found = account_of(run.run)
    assert found.wall == pytest.approx(first + run.now - begun)
    assert sum(found.seconds.values()) == pytest.approx(found.wall)
    assert RECOVERY not in found.seconds


def test_an_evaluation_inside_the_next_steps_seconds_counts_once():
    """The loop's clock is read at each step, so a step's seconds hold the evaluation that came before it."""
    events = [
        Event(0, "attempt", 0, None, {}),
        Event(0, "phase", 0, 0, {"name": "train"}),
        Event(1, "step", 0, 0, {"step": 1, "seconds": 1.0, "spent": {"compute": 0.9}}),
        Event(3, "eval", 0, 0, {"step": 1, "loss": 1.0, "seconds": 2.0}),
        Event(4, "step", 0, 0, {"step": 2, "seconds": 3.0, "spent": {"eval": 2.0, "compute": 0.7, "data": 0.1}}),
        Event(4.5, "end", 0, 0, {"step": 2}),
    ]
    found = account(history(events))
    assert found.seconds == pytest.approx({"compute": 1.6, "eval": 2.0, "data": 0.1, UNEXPLAINED: 0.8})


def test_phases_name_the_time_before_the_first_step():
    events = [
        Event(0, "attempt", 0, None, {}),
        Event(1, "start", 0, 0, {}),
        Event(2, "phase", 0, 0, {"name": "build"}),
        Event(5, "phase", 0, 0, {"name": "restore"}),
        Event(6, "phase", 0, 0, {"name": "train"}),
        Event(8, "step", 0, 0, {"step": 1, "seconds": 8.0, "spent": {"compute": 1.5}}),
        Event(9, "end", 0, 0, {"step": 1}),
        Event(10, "finished", 0, None, {}),
    ]
    found = account(history(events))
    assert found.seconds == pytest.approx(
        {"start-up": 2, "build": 3, "restore": 1, "compute": 1.5, UNEXPLAINED: 1.5, "shutdown": 1}
    )


def test_a_run_without_workers_was_only_starting():
    found = account(history([Event(0, "attempt", 0, None, {}), Event(4, "give_up", 0, None, {})]))
    assert found.seconds == {"start-up": 4}
    assert account(history([])).wall == 0


def test_a_failed_run_sums_too(tmp_path):
    found = account_of(failed(tmp_path))
    assert sum(found.seconds.values()) == pytest.approx(found.wall)


KINDS = st.sampled_from(
    ["start", "phase", "step", "eval", "checkpoint", "death", "end", "resume", "finished", "attempt"]
)
ANY = st.tuples(KINDS, st.floats(0, 100), st.integers(0, 2), st.integers(0, 2), st.integers(1, 4), st.floats(0, 50))


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(ANY, max_size=25))
def test_whatever_the_events_say_the_seconds_sum(said):
    """Overlapping, lying or disordered events cost precision, never the sum."""
    events = [
        Event(t, kind, attempt, None if kind in ("death", "attempt", "finished") else rank, {
            "step": step, "seconds": seconds, "spent": {"compute": seconds}, "name": "build", "source": "scratch",
        })
        for kind, t, attempt, rank, step, seconds in said
    ]  # fmt: skip
    found = account(history(events))
    assert sum(found.seconds.values()) == pytest.approx(found.wall, abs=1e-6)
    assert all(seconds >= -1e-9 for spent in found.ranks.values() for seconds in spent.values())
