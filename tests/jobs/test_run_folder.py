"""A run folder is whole, numbered once, and held by one live job."""

import json
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from shardwright.jobs.run_folder import (
    FORMAT,
    RunError,
    RunFolder,
    _take,
    create,
    find,
    list_runs,
    publish,
    remove,
)

CREATE = """
import sys
from pathlib import Path
from shardwright.jobs.run_folder import create
sys.stdin.read(1)
for _ in range(10):
    print(create(Path(sys.argv[1]), "gpt", "").name)
"""

HOLD = """
import sys
from pathlib import Path
from shardwright.jobs.run_folder import RunFolder
with RunFolder(Path(sys.argv[1])).lock():
    print("held", flush=True)
    sys.stdin.read()
"""


def python(code: str, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


@pytest.fixture
def holding(tmp_path):
    """A run that another process holds, and that process."""
    run = create(tmp_path, "gpt", "")
    with python(HOLD, run.path) as process:
        assert process.stdout.readline() == "held\n"
        yield run, process
        process.kill()


def test_a_new_run_has_every_part(tmp_path):
    run = create(tmp_path / "runs", "gpt", "[train]\nsteps = 3  # a.toml:2\n", plan={"a": 1})
    assert run.name == "gpt-1"
    assert run.spec.read_text() == "[train]\nsteps = 3  # a.toml:2\n"
    assert json.loads(run.plan.read_text()) == {"a": 1}
    assert all(part.is_dir() for part in (run.code, run.events, run.logs, run.checkpoints, run.tensorboard))
    facts = run.facts()
    assert facts["format"] == FORMAT
    assert facts["environment"]["packages"]["shardwright"]
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["gpt-1"]


def test_names_count_up_and_keep_apart_from_other_names(tmp_path):
    (tmp_path / "gpt-7").mkdir()
    (tmp_path / "gpt-7" / "file").touch()
    (tmp_path / "gpt-9-3").mkdir()
    assert [create(tmp_path, name, "").name for name in ("gpt", "gpt", "other")] == ["gpt-8", "gpt-9", "other-1"]


def test_concurrent_creators_never_collide(tmp_path):
    creators = [python(CREATE, tmp_path) for _ in range(3)]
    with ThreadPoolExecutor() as threads:
        names = [line for out in threads.map(lambda one: one.communicate("x")[0], creators) for line in out.split()]
    assert sorted(names) == sorted(f"gpt-{number}" for number in range(1, 31))
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)


@pytest.mark.parametrize("name", ["", "../up", "a/b", ".hidden", "a b"])
def test_a_name_that_is_no_folder_name_is_refused(tmp_path, name):
    with pytest.raises(RunError, match=r"run\.name"):
        create(tmp_path, name, "")
    assert list(tmp_path.iterdir()) == []


def test_an_unwritable_root_is_one_sentence(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match=r"run\.folder = .*cannot hold a run"):
        create(tmp_path / "file" / "runs", "gpt", "")


def test_a_newer_format_is_refused(tmp_path):
    run = create(tmp_path, "gpt", "")
    (run.path / "run.json").write_text(json.dumps({"format": FORMAT + 1, "created": 0}))
    with pytest.raises(RunError, match="upgrade"):
        run.facts()


def test_a_second_live_job_is_refused_in_one_sentence(holding):
    run, process = holding
    assert run.holder().pid == process.pid
    with pytest.raises(
        RunError, match=f"run gpt-1 is live .process {process.pid} on .*shardwright stop gpt-1"
    ) as refusal:
        run.lock().__enter__()
    assert "\n" not in str(refusal.value)
    with pytest.raises(RunError, match="is live"):
        remove(run)
    assert run.spec.is_file()


def test_a_killed_holder_leaves_a_stale_lock(holding):
    run, process = holding
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert run.holder() is None
    with run.lock() as stale:
        assert stale.pid == process.pid
        assert run.holder().pid == os.getpid()
    with run.lock() as stale:
        assert stale is None


def test_a_forked_child_does_not_keep_a_released_lock(tmp_path):
    run = create(tmp_path, "gpt", "")
    with run.lock():
        child = os.posix_spawn("/bin/sleep", ["sleep", "60"], {})
        inherits = os.fork()
        if not inherits:
            signal.pause()
    try:
        assert run.holder() is None
    finally:
        for pid in (child, inherits):
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def test_find_by_name_path_and_last(tmp_path):
    first, second = create(tmp_path, "zed", ""), create(tmp_path, "gpt", "")
    assert find("last", tmp_path) == second
    assert find("zed-1", tmp_path) == first
    assert find(str(first.path), Path("elsewhere")) == first
    assert list_runs(tmp_path) == [first, second]
    with pytest.raises(RunError, match="did you mean gpt-1"):
        find("gtp-1", tmp_path)
    with pytest.raises(RunError, match="its runs: none"):
        find("gpt-1", tmp_path / "nowhere")
    with pytest.raises(RunError, match="there is no run in"):
        find("last", tmp_path / "nowhere")


def test_remove_deletes_a_run_that_nobody_holds(tmp_path):
    run = create(tmp_path, "gpt", "")
    remove(run)
    assert list(tmp_path.iterdir()) == []


def test_a_lock_taken_after_removal_is_refused(tmp_path):
    run = create(tmp_path, "gpt", "")
    with (run.path / "lock").open("r+") as opened:
        remove(run)
        with pytest.raises(RunError, match="was removed"):
            _take(opened, run.name)


def test_attempts_count_up_from_what_was_written(tmp_path):
    run = create(tmp_path, "gpt", "")
    assert run.next_attempt() == 0
    (run.events / "attempt-003-supervisor.jsonl").touch()
    run.log(11, 0).touch()
    assert run.next_attempt() == 12


def test_code_is_kept_by_its_hash(tmp_path):
    run, source = create(tmp_path, "gpt", ""), tmp_path / "mine.py"
    source.write_text("a = 1\n")
    first = run.add_code({"pkg/mine.py": source})
    assert (first / "pkg" / "mine.py").read_text() == "a = 1\n"
    assert run.add_code({"pkg/mine.py": source}) == first
    source.write_text("a = 2\n")
    assert run.add_code({"pkg/mine.py": source}) != first
    assert len(list(run.code.iterdir())) == 2


def test_publish_replaces_a_file_whole(tmp_path):
    publish(tmp_path / "a", "old")
    publish(tmp_path / "a", "new")
    assert (tmp_path / "a").read_text() == "new"
    with pytest.raises(UnicodeEncodeError):
        publish(tmp_path / "a", "broken \udcff")
    assert (tmp_path / "a").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_run_folder_is_a_value_that_touches_nothing(tmp_path):
    assert RunFolder(tmp_path / "none").events == tmp_path / "none" / "events"
    assert list(tmp_path.iterdir()) == []
