"""What does a watch conclude from what ranks say, and from what they do not say?"""

from typing import Any

import pytest
from shardwright.cluster.group import Message
from shardwright.cluster.watch import Watch

FAILURE = {"host": "h", "phase": "train", "step": 3, "type": "ValueError", "message": "no", "traceback": "Traceback"}


@pytest.fixture
def watch() -> Watch:
    return Watch(range(3), 0.0, lambda rank: f"log-{rank}")


def say(watch: Watch, rank: int, kind: str, now: float = 0.0, **fields: Any) -> None:
    watch.note(Message(rank, kind, {"rank": rank, **fields}), now)


def test_results_end_a_rank(watch):
    for rank in range(3):
        say(watch, rank, "result", value=rank * 10)
        say(watch, rank, "gone", code=0)
    assert watch.finished and watch.results == {0: 0, 1: 10, 2: 20} and not watch.casualties


def test_a_death_knows_phase_and_step(watch):
    say(watch, 1, "start", host="node3")
    say(watch, 1, "phase", name="eval")
    say(watch, 1, "step", step=9, seconds=0.1)
    say(watch, 1, "gone", code=-9)
    (dead,) = watch.casualties
    assert dead.host == "node3"
    assert (dead.rank, dead.cause, dead.phase, dead.step, dead.log) == (1, "signal 9 (SIGKILL)", "eval", 9, "log-1")
    assert watch.conclusive and watch.step == 9


def test_an_exit_without_a_result_is_a_death(watch):
    say(watch, 0, "gone", code=0)
    assert watch.casualties[0].cause == "exit status 0"


def test_a_failure_is_what_the_rank_said_not_its_exit(watch):
    say(watch, 2, "failure", **FAILURE)
    say(watch, 2, "gone", code=1)
    assert [one.cause for one in watch.casualties] == ["ValueError"]


def test_an_exception_is_conclusive_when_all_have_spoken(watch):
    say(watch, 0, "failure", **FAILURE)
    assert not watch.conclusive
    say(watch, 1, "result", value=None)
    assert not watch.conclusive
    say(watch, 2, "failure", **FAILURE)
    assert watch.conclusive


def test_a_halted_rank_is_conclusive(watch):
    say(watch, 0, "halted", signal=19)
    assert watch.conclusive and watch.casualties[0].sentence == "stopped: signal 19"


def test_silence_before_the_first_step_is_forgiven_longer(watch):
    assert watch.silent(99.0, heartbeat=10.0) == []
    assert watch.silent(101.0, heartbeat=10.0) == [0, 1, 2]


def test_silence_between_steps(watch):
    for rank in range(3):
        say(watch, rank, "step", now=100.0, step=1, seconds=0.5)
    say(watch, 1, "phase", now=105.0, name="checkpoint")
    assert watch.silent(109.0, heartbeat=10.0) == []
    assert watch.silent(111.0, heartbeat=10.0) == [0, 2]
    say(watch, 0, "result", now=111.0, value=None)
    assert watch.silent(999.0, heartbeat=10.0) == [1, 2]  # a rank with a result may be silent


def test_long_steps_are_waited_for(watch):
    say(watch, 0, "step", now=100.0, step=1, seconds=30.0)
    assert 0 not in watch.silent(249.0, heartbeat=10.0)
    assert 0 in watch.silent(251.0, heartbeat=10.0)
