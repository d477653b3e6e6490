"""An event is one line; a torn line is left out; a step that was taken back counts once."""

import json
import os
import resource
import signal
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from shardwright.jobs.events import Event, EventFile, Follower, encode, file_name, read
from shardwright.jobs.history import commit, history, state, throughput

WRITE_UNTIL_KILLED = """
import sys
from pathlib import Path
from shardwright.jobs.events import EventFile
tell = EventFile(Path(sys.argv[1]))
step = 0
while True:
    step += 1
    tell("step", step=step, text="x" * 5000)
    if step == 100:
        print("warm", flush=True)
"""


def step(number: int, attempt: int = 0, rank: int | None = 0, t: float = 0.0, **fields) -> Event:
    return Event(t or attempt * 100.0 + number, "step", attempt, rank, {"step": number, **fields})


def event(kind: str, attempt: int = 0, rank: int | None = None, t: float = 0.0, **fields) -> Event:
    return Event(t, kind, attempt, rank, fields)


def test_events_come_back_in_order_with_attempt_and_rank(tmp_path):
    worker, supervisor = EventFile(tmp_path / file_name(0, 3)), EventFile(tmp_path / file_name(1, None))
    worker("step", step=1, loss=2.5)
    supervisor("death", rank=3, cause="signal 9")
    found = read(tmp_path)
    assert [(one.kind, one.attempt, one.rank, dict(one.fields)) for one in found] == [
        ("step", 0, 3, {"step": 1, "loss": 2.5}),
        ("death", 1, None, {"rank": 3, "cause": "signal 9"}),
    ]
    assert found[0].t < found[1].t


def test_a_torn_last_line_is_left_out_until_it_is_whole(tmp_path):
    path = tmp_path / file_name(0, 0)
    path.write_bytes(b'{"t":1,"kind":"step","step":1}\n{"t":2,"ki')
    follower = Follower(tmp_path)
    assert [one["step"] for one in follower.poll()] == [1]
    assert follower.poll() == []
    with path.open("ab") as file:
        file.write(b'nd":"step","step":2}\n')
    assert [one["step"] for one in follower.poll()] == [2]
    assert [one["step"] for one in read(tmp_path)] == [1, 2]


@pytest.mark.parametrize("line", [b"\xff\xfe", b"[]", b"{}", b'{"t":"x","kind":"a"}', b'{"t":null,"kind":"a"}'])
def test_a_line_of_another_writer_is_named_not_swallowed(tmp_path, line):
    (tmp_path / file_name(0, 0)).write_bytes(line + b'\n{"t":1,"kind":"end"}\n')
    assert sorted(one.kind for one in read(tmp_path)) == ["end", "unreadable"]


def test_a_writer_killed_at_any_time_leaves_readable_events(tmp_path):
    path = tmp_path / file_name(0, 0)
    command = [sys.executable, "-c", WRITE_UNTIL_KILLED, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        process.stdout.readline()
        process.send_signal(signal.SIGKILL)
    found = read(tmp_path)
    assert [one["step"] for one in found] == list(range(1, len(found) + 1))
    assert len(found) >= 100


def test_a_follower_gives_each_event_once_over_new_attempts(tmp_path):
    follower = Follower(tmp_path)
    first = EventFile(tmp_path / file_name(0, 0))
    first("step", step=1)
    assert len(follower.poll()) == 1
    first("step", step=2)
    EventFile(tmp_path / file_name(1, 0))("step", step=3)
    assert [one["step"] for one in follower.poll()] == [2, 3]
    assert follower.poll() == []


def test_a_number_that_is_not_finite_is_null():
    assert json.loads(encode({"loss": float("nan"), "spent": {"a": [float("inf"), 1.5]}})) == {
        "loss": None,
        "spent": {"a": [None, 1.5]},
    }


def test_a_full_disk_costs_events_and_says_so(tmp_path):
    path, limits = tmp_path / file_name(0, 0), resource.getrlimit(resource.RLIMIT_FSIZE)
    tell, handler = EventFile(path), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        tell("step", step=1)
        resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 10, limits[1]))
        tell("step", step=2)
        tell("step", step=3)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    tell("step", step=4)
    tell("step", step=5)
    found = read(tmp_path)
    assert [one["step"] for one in found if one.kind == "step"] == [1, 4, 5]
    assert [one["count"] for one in found if one.kind == "lost"] == [2]


def test_a_closed_file_takes_no_more_events(tmp_path):
    tell = EventFile(tmp_path / file_name(0, 0))
    tell.close()
    other = os.open(tmp_path / "other", os.O_RDWR | os.O_CREAT)
    tell("step", step=1)
    assert os.fstat(other).st_size == 0
    os.close(other)


def test_the_later_attempt_wins_and_the_replay_is_marked():
    record = history([*(step(n, 0, loss=1.0) for n in range(1, 6)), *(step(n, 1, loss=2.0) for n in range(4, 8))])
    assert [(one["step"], one["loss"]) for one in record.curve] == [
        (1, 1.0), (2, 1.0), (3, 1.0), (4, 2.0), (5, 2.0), (6, 2.0), (7, 2.0),
    ]  # fmt: skip
    assert [one["step"] for one in record.replayed[0]] == [4, 5]
    assert record.steps_lost == 2


def test_a_resume_takes_back_steps_that_the_new_attempt_never_reached():
    record = history([*(step(n) for n in range(1, 6)), event("resume", 1, 0, t=150, step=2, source="checkpoint")])
    assert [one["step"] for one in record.steps[0]] == [1, 2]
    assert record.step == 2
    assert [one["step"] for one in record.replayed[0]] == [3, 4, 5]


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=5))
def test_the_committed_steps_are_those_of_a_state_that_was_rolled_back(attempts):
    """The reference: a list that each attempt cuts at the step it starts from and then extends."""
    reports, resumed, expected, started = [], {}, [], 0
    for number, (start, done) in enumerate(attempts):
        start = min(start, len(expected))
        resumed[number] = start
        mine = [step(n, number) for n in range(start + 1, start + done + 1)]
        reports += mine
        expected = expected[:start] + mine
        started += len(mine)
    counted, replayed = commit(reports, resumed)
    assert list(counted) == expected
    assert len(counted) + len(replayed) == started


def test_outcome_is_the_last_word_unless_an_attempt_follows():
    stopped = [event("attempt", t=1), event("stopped", t=2)]
    assert state(history([]), live=False) == "new"
    assert state(history(stopped[:1]), live=False) == "interrupted"
    assert state(history(stopped[:1]), live=True) == "running"
    assert state(history(stopped), live=False) == "stopped"
    assert state(history([*stopped, event("attempt", 1, t=3)]), live=False) == "interrupted"
    assert state(history([*stopped, event("attempt", 1, t=3), event("give_up", 1, t=4)]), live=False) == "failed"
    assert state(history([event("end", rank=0, t=1, reason="finished")]), live=False) == "finished"
    assert state(history([event("attempt", t=1), event("end", rank=0, t=2)]), live=False) == "interrupted"


def test_attempts_tell_restarts_from_resumes():
    record = history(
        [
            event("attempt", 0, t=1, world_size=2),
            event("death", 0, t=2, rank=1, cause="signal 9"),
            Event(3, "restart", 0, None, {"attempt": 1, "from_step": 0}),
            event("attempt", 1, t=4, world_size=2),
            event("stopped", 1, t=5),
            event("attempt", 2, t=6, world_size=4),
            event("resume", 2, 0, t=7, step=3, source="checkpoint"),
        ]
    )
    assert [(one.outcome, one.continues, one.source) for one in record.attempts] == [
        ("died", False, "scratch"),
        ("stopped", True, "scratch"),
        ("", False, "checkpoint"),
    ]
    assert record.restarts == 1


def test_the_curve_comes_from_the_lowest_rank_that_knows_the_loss():
    record = history([step(1, rank=0, loss=None), step(1, rank=2, loss=2.0), step(1, rank=3, loss=2.0)])
    assert [one.rank for one in record.curve] == [2]


def test_throughput_leaves_out_the_first_step_of_each_attempt():
    steps = [step(1, tokens=10, seconds=9.0), step(2, tokens=10, seconds=1.0), step(3, 1, tokens=10, seconds=7.0)]
    assert throughput(steps) == 10.0
    assert throughput(steps[:1]) == pytest.approx(10 / 9)
    assert throughput([]) is None
