"""Listings, logs and comparisons come from the record and the lock alone."""

import json
import subprocess
import sys
import threading
import time

import pytest
from recorded import failed, finished, pretend
from shardwright.cluster.status import (
    POLL,
    compare,
    compare_text,
    follow_log,
    list_status,
    one_status,
    status_text,
    table,
)
from shardwright.cluster.summary import summarize, summary_text
from shardwright.jobs.report.page import write
from shardwright.jobs.run_folder import RunError, create


def test_the_list_tells_states_from_events_and_lock(tmp_path):
    done, broken = finished(tmp_path), failed(tmp_path)
    new, live, dead = (create(tmp_path, "other", "") for _ in range(3))
    with live.lock():
        half = pretend(tmp_path)
        half.begin()
        half.step(1)
        rows = list_status(tmp_path)
    assert {row["run"]: row["state"] for row in rows} == {
        done.name: "finished",
        broken.name: "failed",
        new.name: "new",
        live.name: "running",
        dead.name: "new",
        half.run.name: "interrupted",
    }
    assert [row["run"] for row in rows][:2] == [done.name, broken.name]
    json.dumps(rows, allow_nan=False)
    text = status_text(rows).splitlines()
    assert text[1].split()[:3] == ["gpt-1", "finished", "300/300"]
    assert len(text) == 7
    assert status_text([]) == "no runs"


def test_a_row_tells_the_course(tmp_path):
    row = one_status(finished(tmp_path))
    assert (row["step"], row["steps"], row["restarts"], row["steps_lost"], row["attempts"]) == (300, 300, 1, 1, 2)
    assert row["loss"] == pytest.approx(1.8, abs=0.1)
    assert row["validation_loss"] == pytest.approx(1.87, abs=0.01)
    assert row["tokens_per_second"] == pytest.approx(36_000, rel=0.05)


def test_a_table_aligns_words_left_and_figures_right():
    assert table(("a", "figure"), [["long", "1"], ["b", "22.5"]]).splitlines() == [
        "a     figure",
        "long       1",
        "b       22.5",
    ]


def test_the_summary_says_what_came_of_it(tmp_path):
    run = finished(tmp_path)
    write(run)
    found = summarize(run)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert sum(found["time"].values()) == pytest.approx(found["wall_seconds"])
    text = summary_text(found)
    for part in ("gpt-1: finished at step 300 of 300", "1.8747 nats, 2.7048 bits per byte", "3.2400 nats", "1 restart"):
        assert part in text
    for part in ("tokens a second", str(run.report), "def read(path)", "unexplained"):
        assert part in text
    assert "MFU" not in text and "resume" not in text
    assert len(text.splitlines()) <= 15


def test_the_summary_of_a_failure_says_how_to_go_on(tmp_path):
    run = failed(tmp_path)
    text = summary_text(summarize(run))
    assert f"shardwright resume {run.path}" in text
    assert "validation" not in text


def test_the_summary_of_a_run_that_never_began(tmp_path):
    assert summary_text(summarize(create(tmp_path, "gpt", ""))).startswith("run         gpt-1: new at step 0")


def test_a_log_of_the_newest_attempt(tmp_path):
    run = create(tmp_path, "gpt", "")
    run.log(0, 0).write_text("old\n")
    run.log(1, 0).write_text("new\n")
    run.log(1, 1).write_text("other\n")
    assert "".join(follow_log(run, 0)) == "new\n"
    assert "".join(follow_log(run, 0, 0)) == "old\n"
    assert "".join(follow_log(run, 1)) == "other\n"
    for rank, attempt in ((7, None), (1, 0)):
        with pytest.raises(RunError, match=f"no log of rank {rank}.*attempt-000-rank-000.log to attempt-001"):
            list(follow_log(run, rank, attempt))
    with pytest.raises(RunError, match="no worker of it has started yet"):
        list(follow_log(create(tmp_path, "gpt", ""), 0))


def test_a_log_is_followed_over_attempts_until_the_run_ends(tmp_path):
    run, seen = create(tmp_path, "gpt", ""), []
    parts, more = [], threading.Condition()

    def wait_for(text: str) -> None:
        with more:
            assert more.wait_for(lambda: text in "".join(parts), timeout=60)

    def listen() -> None:
        for part in follow_log(run, 0, follow=True):
            with more:
                parts.append(part)
                more.notify()
        seen.append("".join(parts))

    def give_time_to_look_again() -> None:
        time.sleep(3 * POLL)

    with run.lock():
        thread = threading.Thread(target=listen)
        thread.start()
        give_time_to_look_again()
        with run.log(0, 0).open("wb") as log:
            log.write("grü".encode()[:-1])
            log.flush()
            wait_for("gr")
            give_time_to_look_again()
            log.write("grü\n".encode()[-2:])
            log.flush()
            wait_for("ü")
        (run.events / "attempt-001-supervisor.jsonl").touch()
        give_time_to_look_again()
        run.log(1, 0).write_text("second\n")
        wait_for("second")
        give_time_to_look_again()
        run.log(2, 0).write_text("third\n")
        wait_for("third")
    thread.join(60)
    assert seen == ["grü\n--- attempt 1 ---\nsecond\n--- attempt 2 ---\nthird\n"]


def test_following_a_run_that_is_over_prints_and_leaves(tmp_path):
    run = create(tmp_path, "gpt", "")
    run.log(0, 0).write_text("all\n")
    assert "".join(follow_log(run, 0, follow=True)) == "all\n"


def test_two_runs_compared(tmp_path):
    one, other = finished(tmp_path), finished(tmp_path, steps=200, seed=1, lr="1e-3")
    found = compare(one, other)
    json.dumps(found, allow_nan=False)
    assert found["config"] == {"run.seed": [0, 1], "train.steps": [300, 200], "optimizer.lr": [3e-3, 1e-3]}
    assert [row["step"] for row in found["losses"]] == list(range(1, 201))
    worst = max(found["losses"], key=lambda row: abs(row["losses"][0] - row["losses"][1]))
    assert found["max_loss_difference"] == abs(worst["losses"][0] - worst["losses"][1]) > 0
    assert found["max_loss_difference_step"] == worst["step"]
    text = compare_text(found)
    for part in ("gpt-1", "gpt-2", "optimizer.lr", "largest difference", "over 200 common steps", "throughput"):
        assert part in text


def test_equal_runs_differ_by_nothing(tmp_path):
    one, other = finished(tmp_path), finished(tmp_path, name="twin")
    found = compare(one, other)
    assert found["max_loss_difference"] == 0
    assert found["config"] == {}
    assert "the two jobs are equal" in compare_text(found)


def test_runs_without_a_step_in_common(tmp_path):
    found = compare(finished(tmp_path), create(tmp_path, "new", ""))
    assert found["max_loss_difference"] is None
    assert "no step in common" in compare_text(found)


def test_none_of_it_imports_torch():
    code = "import sys, shardwright.cluster.status, shardwright.cluster.view; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
