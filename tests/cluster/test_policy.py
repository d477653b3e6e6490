"""Does the policy go on where that helps, and stop where it does not?"""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from shardwright.cluster.failure import Casualty
from shardwright.cluster.policy import GiveUp, Restart, Stand, decide, newest
from shardwright.jobs.spec import RecoveryOptions

ERROR = Casualty(1, "ValueError", phase="train", step=7, message="no", traceback="Traceback")
KILL = Casualty(1, "signal 9 (SIGKILL)", step=7)
CRASH = Casualty(1, "signal 11 (SIGSEGV)", step=7)
ECHO = Casualty(0, "RuntimeError", step=7, message="Connection closed by peer", traceback="Traceback")
OPTIONS = RecoveryOptions(max_restarts=3)


def decision(*failures: list[Casualty], options: RecoveryOptions = OPTIONS) -> Restart | GiveUp:
    return decide(failures, 6, 5, options)


def test_the_first_failure_restarts():
    assert decision([ERROR]) == Restart(Stand(6, "snapshot"))


@pytest.mark.parametrize("cause", [ERROR, CRASH])
def test_the_same_failure_at_the_same_step_gives_up(cause):
    assert isinstance(decision([cause], [ECHO, cause]), GiveUp)
    assert isinstance(decision([cause], [replace(cause, rank=3)]), GiveUp)  # whichever rank speaks first


@pytest.mark.parametrize("other", [{"step": 8}, {"message": "other"}, {"cause": "KeyError"}])
def test_another_failure_restarts(other):
    assert isinstance(decision([ERROR], [replace(ERROR, **other)]), Restart)


def test_what_comes_from_outside_may_repeat():
    assert isinstance(decision([KILL], [KILL]), Restart)


def test_a_failure_between_makes_it_another():
    assert isinstance(decision([ERROR], [KILL], [ERROR]), Restart)


@given(st.integers(0, 5), st.integers(1, 8))
def test_restarts_are_limited(limit, failures):
    found = decision(*[[KILL]] * failures, options=RecoveryOptions(max_restarts=limit))
    assert isinstance(found, Restart) == (failures <= limit)


@pytest.mark.parametrize(
    ("snapshot", "checkpoint", "stand"),
    [
        (None, None, Stand(0, "scratch")),
        (None, 5, Stand(5, "checkpoint")),
        (7, 5, Stand(7, "snapshot")),
        (5, 5, Stand(5, "snapshot")),
        (4, 5, Stand(5, "checkpoint")),
        (3, None, Stand(3, "snapshot")),
    ],
)
def test_the_newest_stand(snapshot, checkpoint, stand):
    assert newest(snapshot, checkpoint) == stand
