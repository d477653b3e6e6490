"""Does a kill at any moment leave something whole to go on from? Thirty and more real kills, no step lost."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def memory() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        yield Path(folder)


def kill_writers(kind: str, folder: Path, rounds: int) -> dict[str, int]:
    script = Path(__file__).with_name("killed.py")
    command = [sys.executable, str(script), kind, str(folder), str(rounds)]
    done = subprocess.run(command, text=True, capture_output=True, timeout=200)
    assert done.returncode == 0, done.stderr
    found: dict[str, int] = json.loads(done.stdout)
    return found


def test_a_snapshot_is_whole_whenever_its_writer_is_killed(memory: Path) -> None:
    found = kill_writers("snapshot", memory, 30)
    assert found["newest"] > 30
    assert found["torn"] > 0, "no kill fell into a write: the test saw nothing"


def test_what_is_listed_loads_whenever_its_writer_is_killed(tmp_path: Path) -> None:
    assert kill_writers("checkpoint", tmp_path, 15)["newest"] > 3
