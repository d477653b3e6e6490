"""Is the failure block short, does it name the cause and not the victims, and does it say everything once?"""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from shardwright.cluster.failure import Casualty, failure_block, first_cause, name_exit, name_ranks

TRACE = """Traceback (most recent call last):
  File "/x/shardwright/jobs/worker.py", line 130, in _work
    value = task(worker)
            ^^^^^^^^^^^^
  File "/x/model.py", line 7, in forward
    raise ValueError("the shapes differ")
ValueError: the shapes differ
"""
ERROR = Casualty(2, "ValueError", "node7", "train", 12, "the shapes differ", TRACE, "logs/rank-2.log")
VICTIM = Casualty(
    0,
    "RuntimeError",
    "node7",
    "train",
    12,
    "[pair.cc:553] Connection closed by peer [127.0.0.1]:1",
    "Traceback\nx",
    "l",
)


def test_the_whole_block():
    block = failure_block("run gpt failed", [VICTIM, replace(VICTIM, rank=1), ERROR], "shardwright resume gpt-1")
    assert block.split("\n") == [
        "run gpt failed",
        "cause:  rank 2 on node7, phase train, step 12",
        "        ValueError: the shapes differ",
        "Traceback (most recent call last):",
        '  File "/x/model.py", line 7, in forward',
        '    raise ValueError("the shapes differ")',
        "ValueError: the shapes differ",
        "victim: ranks 0-1: lost a peer",
        "log:    logs/rank-2.log",
        "resume: shardwright resume gpt-1",
    ]


def test_equal_tracebacks_are_printed_once():
    block = failure_block("t", [replace(ERROR, rank=rank) for rank in (3, 0, 1, 2)])
    assert "cause:  rank 3 on node7, phase train, step 12 (ranks 0-2: the same)" in block
    assert block.count("the shapes differ") == 3  # sentence, source line, last line of the traceback


def test_a_death_without_words():
    block = failure_block("t", [Casualty(1, "signal 9 (SIGKILL)", phase="train", step=3, log="l")])
    assert block == "t\ncause:  rank 1, phase train, step 3\n        signal 9 (SIGKILL)\nlog:    l"


def test_victims_alone_still_have_a_cause():
    assert first_cause([VICTIM]) == VICTIM
    assert first_cause([VICTIM, ERROR]) == ERROR


def test_other_failures_are_named_too():
    block = failure_block("t", [ERROR, replace(ERROR, rank=5, cause="KeyError", message="'lr'")])
    assert "also:   rank 5: KeyError: 'lr'" in block


casualties = st.lists(
    st.builds(
        Casualty,
        rank=st.integers(0, 99),
        cause=st.sampled_from(["ValueError", "signal 9 (SIGKILL)", "hung"]),
        message=st.text(max_size=400),
        traceback=st.lists(st.text(max_size=200), max_size=60).map("\n".join),
        log=st.just("a/log"),
    ),
    min_size=1,
    max_size=12,
)


@given(casualties, st.integers(20, 60))
def test_the_block_never_exceeds_its_lines(casualties, limit):
    lines = failure_block("title", casualties, "resume it", limit).split("\n")
    assert len(lines) <= limit
    assert lines[0] == "title" and lines[-1] == "resume: resume it" and lines[-2] == "log:    a/log"
    assert max(map(len, lines)) <= 170


def test_a_long_traceback_keeps_its_innermost_frames():
    trace = "\n".join(f"line {number}" for number in range(100))
    lines = failure_block("t", [replace(ERROR, traceback=trace)]).split("\n")
    assert len(lines) == 25 and "line 99" in lines and "line 10" not in lines
    assert "  ... 80 lines left out" in lines


@given(st.sets(st.integers(0, 30), min_size=1))
def test_spans_of_ranks(ranks):
    word, _, spans = name_ranks(list(ranks)).partition(" ")
    assert word == ("rank" if len(ranks) == 1 else "ranks")
    ends = [list(map(int, span.split("-"))) for span in spans.split(", ")]
    assert sorted(ranks) == [rank for end in ends for rank in range(end[0], end[-1] + 1)]


@pytest.mark.parametrize(("code", "name"), [(3, "exit status 3"), (-11, "signal 11 (SIGSEGV)"), (-40, "signal 40")])
def test_exit_codes(code, name):
    assert name_exit(code) == name
