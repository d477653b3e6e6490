"""The view is a function of events; it shows a run to its end and never shows an old attempt as news."""

import io
import threading
import time

import pytest
from recorded import failed, finished, pretend
from rich.console import Console
from shardwright.cluster.progress import State
from shardwright.cluster.view import PlainLog, picture, progress_line, sparkline, watch
from shardwright.jobs.events import Event, read


def event(kind: str, t: float = 0.0, rank: int | None = None, attempt: int = 0, **fields) -> Event:
    return Event(t, kind, attempt, rank, fields)


def told(*events: Event, total: int | None = None) -> State:
    state = State(total=total)
    for one in events:
        state.update(one)
    return state


def steps(first: int, last: int, rank: int = 0, attempt: int = 0) -> list[Event]:
    return [
        event(
            "step", 10.0 + n, rank, attempt, step=n, loss=5.0 - n / 10, lr=0.1, grad_norm=1.0, tokens=100, seconds=2.0
        )
        for n in range(first, last + 1)
    ]


def shown(state: State, now: float) -> str:
    console = Console(file=io.StringIO(), width=110)
    console.print(picture(state, "gpt-1", now))
    return console.file.getvalue()


BEGIN = event("attempt", 1.0, world_size=2)


def test_a_state_follows_a_run_to_its_end(tmp_path):
    state = told(*read(finished(tmp_path).events), total=300)
    assert (state.step, state.outcome, state.restarts, state.attempt) == (300, "finished", 1, 1)
    assert [step for step, _ in state.curve] == list(range(1, 301)), "a step that was taken back is told once"
    assert {rank.condition for rank in state.ranks.values()} == {"done"}
    words = "\n".join(note.text for note in state.notes)
    for part in ("attempt 0: 4 workers", "rank 2 died: signal 9", "restart from the snapshot of step 189", "finished"):
        assert part in words
    assert words.count("checkpoint of step 100") == 1, "one rank speaks for all"


def test_health_of_every_rank(tmp_path):
    state = told(BEGIN)
    assert [rank.condition for rank in state.ranks.values()] == ["starting", "starting"]
    for one in (*steps(1, 1), *steps(1, 1, rank=1)):
        state.update(one)
    assert [rank.condition for rank in state.ranks.values()] == ["alive", "alive"]
    state.update(Event(20.0, "death", 0, None, {"rank": 1, "step": 2, "cause": "signal 9", "phase": "train"}))
    assert [rank.condition for rank in state.ranks.values()] == ["alive", "dead"]
    state.update(event("restart", 21.0, from_step=1, source="snapshot"))
    assert [rank.condition for rank in state.ranks.values()] == ["restarting", "restarting"]
    state.update(event("attempt", 22.0, attempt=1, world_size=2))
    assert [rank.condition for rank in state.ranks.values()] == ["restarting", "restarting"]
    state.update(event("end", 30.0, rank=0, attempt=1, reason="finished"))
    assert state.ranks[0].condition == "done"


def test_pace_and_time_left_leave_out_the_first_step():
    slow = event("step", 9.0, 0, step=1, loss=5.0, tokens=100, seconds=60.0)
    state = told(BEGIN, slow, *steps(2, 6), total=16)
    assert state.tokens_per_second == 50.0
    assert state.seconds_left == 20.0
    assert told(BEGIN, slow, total=16).seconds_left is None
    assert told(BEGIN, *steps(1, 6)).seconds_left is None, "without a total nothing is guessed"


def test_the_total_may_come_from_the_workers():
    assert told(BEGIN, event("resume", 2.0, 0, step=0, source="scratch", steps=77)).total == 77


def test_a_resume_takes_back_later_steps():
    state = told(BEGIN, *steps(1, 9), event("resume", 30.0, 0, 1, step=4, source="checkpoint"), *steps(5, 6, attempt=1))
    assert [step for step, _ in state.curve] == [1, 2, 3, 4, 5, 6]
    assert state.step == 6


def test_a_line_of_progress():
    state = told(BEGIN, *steps(1, 4), event("eval", 20.0, 0, step=4, loss=4.5, bits_per_byte=6.5), total=10)
    assert progress_line(state) == "step 4/10  loss 4.600  validation 4.500  50 tokens/s  12 s left"
    assert (
        progress_line(told(BEGIN, event("step", 2.0, 0, step=1, loss=None, seconds=1.0))) == "step 1  loss not finite"
    )


def test_the_picture_shows_ranks_notes_and_the_course():
    state = told(BEGIN, *steps(1, 4), event("checkpoint", 15.0, 0, step=4, seconds=0.5), total=10)
    picture = shown(state, now=16.5)
    for part in ("gpt-1", "running", "4/10", "loss 4.600", "rank 0", "● alive", "heard 1.5 s ago", "● starting", "█"):
        assert part in picture
    assert "checkpoint of step 4 in 500 ms" in picture


def test_many_ranks_show_those_that_are_not_well():
    state = told(event("attempt", 1.0, world_size=64))
    for rank in range(64):
        state.update(event("step", 2.0, rank, step=1, loss=1.0, seconds=1.0))
    state.update(Event(3.0, "death", 0, None, {"rank": 63, "cause": "hung"}))
    picture = shown(state, 3.0)
    assert "rank 63" in picture and "● dead" in picture
    assert "and 48 more" in picture


def test_markup_and_control_characters_of_a_message_are_text():
    state = told(BEGIN, event("failure", 2.0, 1, type="[red]X", message="[/]\x1b[2J boom\nsecond line"))
    picture = shown(state, 3.0)
    assert "[red]X: [/]" in picture and "boom" in picture
    assert "\x1b[2J" not in picture and "second line" not in picture


def test_a_sparkline_falls_with_the_loss():
    line = sparkline([float(100 - n) for n in range(100)], width=20)
    assert len(line) == 20
    assert line[0] == "█" and line[-1] == "▁"
    assert list(line) == sorted(line, reverse=True)
    assert sparkline([1.0, 1.0]) == "▁▁"


def test_the_plain_log_writes_notes_at_once_and_progress_seldom():
    stream, state = io.StringIO(), told(BEGIN, *steps(1, 1), total=10)
    log = PlainLog(stream, every=5.0)
    for now, number in ((100.0, 2), (101.0, 3), (104.9, 4), (105.1, 5)):
        log.show(state, now)
        for one in steps(number, number):
            state.update(one)
    state.update(event("checkpoint", 15.0, 0, step=5, seconds=0.5))
    log.show(state, 106.0)
    lines = [line[10:] for line in stream.getvalue().splitlines()]
    assert [line.split("  ")[0] for line in lines] == [
        "attempt 0: 2 workers", "step 1/10", "step 4/10", "checkpoint of step 5 in 500 ms",
    ]  # fmt: skip


@pytest.mark.parametrize(("make", "last"), [(finished, "finished"), (failed, "failed: rank 1 failed the same way")])
def test_watching_a_run_that_is_over_shows_all_of_it(tmp_path, make, last):
    stream = io.StringIO()
    state = watch(make(tmp_path), lambda: False, stream)
    assert "attempt 0: 4 workers" in stream.getvalue()
    assert last in stream.getvalue()
    assert state.outcome in ("finished", "failed")


def test_watching_ends_with_the_run_and_misses_nothing(tmp_path):
    run, over = pretend(tmp_path, steps=40), threading.Event()

    def train() -> None:
        run.begin()
        run.train(1, 20)
        time.sleep(0.5)
        run.train(21, 40)
        run.finish()
        over.set()

    thread = threading.Thread(target=train)
    thread.start()
    stream = io.StringIO()
    state = watch(run.run, lambda: not over.is_set(), stream)
    thread.join()
    assert (state.step, state.total, state.outcome) == (40, 40, "finished")
    assert stream.getvalue().count("finished") == 1
    assert "step 40/40" in stream.getvalue()


def test_a_resumed_run_is_watched_from_its_new_attempt_on(tmp_path):
    run = pretend(tmp_path, steps=20)
    run.begin()
    run.train(1, 5)
    run.tell(None, "stopped", step=5)
    run.attempt += 1
    run.begin("checkpoint", 5)
    looks = iter((True, False))
    stream = io.StringIO()
    state = watch(run.run, lambda: next(looks), stream)
    assert state.step == 5
    assert "attempt 1" in stream.getvalue()
    assert "attempt 0" not in stream.getvalue() and "stopped" not in stream.getvalue()


def test_a_terminal_gets_the_picture(tmp_path):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    stream = Terminal()
    watch(finished(tmp_path), lambda: False, stream)
    assert "300/300" in stream.getvalue()
    assert "\x1b[" in stream.getvalue()


def test_phases_have_curves_of_their_own_and_terms_are_told():
    state = told(BEGIN, total=4)
    for number, turn in enumerate(("fresh", "again", "fresh", "again"), 1):
        found = {"loss": 1.0, **({"return": 20.0 + number} if turn == "fresh" else {})}
        state.update(
            event("step", 1.0 + number, 0, step=number, loss=float(number), turn=turn, terms=found, seconds=1.0)
        )
    assert state.curve == [(1.0, 1.0), (3.0, 3.0)]
    assert progress_line(state).startswith("step 4/4  loss 4.000 (again)  return 23")
    assert "return 23" in shown(state, 9.0)
    state.update(event("resume", 9.0, 0, step=2, source="snapshot", attempt=1))
    assert state.curves == {"fresh": [(1.0, 1.0)], "again": [(2.0, 2.0)]}
