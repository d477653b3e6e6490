"""Does shared memory go away with its owner, however the owner ends?"""

import subprocess
import sys
from pathlib import Path

from shardwright.cluster.shared_memory import SharedMemory

OWNER = (
    "import sys, time; from pathlib import Path; from shardwright.cluster.shared_memory import SharedMemory;"
    "memory = SharedMemory(Path(sys.argv[1])); print(memory.of(0), flush=True); time.sleep(600)"
)


def test_a_closed_one_leaves_nothing(tmp_path):
    memory = SharedMemory(tmp_path)
    folder = memory.of(2)
    assert folder is not None and folder.is_dir() and folder.name == "rank-002"
    memory.close()
    memory.close()
    assert list(tmp_path.iterdir()) == []


def test_a_living_owner_keeps_it_and_a_dead_one_does_not(tmp_path):
    owner = subprocess.Popen([sys.executable, "-c", OWNER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    folder = Path(owner.stdout.readline().strip())
    SharedMemory(tmp_path).close()
    assert folder.is_dir()
    owner.kill()
    owner.wait()
    owner.stdout.close()
    SharedMemory(tmp_path).close()
    assert list(tmp_path.iterdir()) == []


def test_one_that_is_being_made_is_left_alone(tmp_path):
    made = tmp_path / "shardwright-new"
    made.mkdir()
    SharedMemory(tmp_path).close()
    assert list(tmp_path.iterdir()) == [made]


def test_without_shared_memory_there_are_no_snapshots(tmp_path):
    memory = SharedMemory(tmp_path / "none")
    assert memory.of(0) is None and memory.newest_common(2) is None
    memory.close()
