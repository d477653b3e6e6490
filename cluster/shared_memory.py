"""Where do the ranks of one supervisor keep their snapshots? In a folder of memory that goes away with it.

The folder is locked while its supervisor lives; one whose owner was killed is removed by the next supervisor.
"""

import fcntl
import os
import shutil
import tempfile
from pathlib import Path

from ..trainers.checkpoint.snapshot import newest_common

MEMORY = Path("/dev/shm")
PREFIX = "shardwright-"


class SharedMemory:
    """One folder per rank, in a folder of our own; None where the system has no shared memory."""

    def __init__(self, root: Path = MEMORY) -> None:
        self._lock = -1
        self.path: Path | None = None
        if root.is_dir() and os.access(root, os.W_OK):
            sweep(root)
            self.path = Path(tempfile.mkdtemp(prefix=PREFIX, dir=root))
            self._lock = os.open(self.path / "lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._lock, fcntl.LOCK_EX)

    def of(self, rank: int) -> Path | None:
        """A rank's folder."""
        if self.path is None:
            return None
        folder = self.path / f"rank-{rank:03d}"
        folder.mkdir(exist_ok=True)
        return folder

    def newest_common(self, world_size: int) -> int | None:
        """The newest step that all ranks hold."""
        folders = [self.of(rank) for rank in range(world_size)]
        return newest_common([folder for folder in folders if folder is not None])

    def close(self) -> None:
        """Give the memory back."""
        if self.path is not None:
            shutil.rmtree(self.path, ignore_errors=True)
            os.close(self._lock)
            self.path = None


def sweep(root: Path) -> None:
    """Remove folders whose supervisor is dead. One without a lock file yet is being made."""
    for folder in root.glob(f"{PREFIX}*"):
        try:
            with (folder / "lock").open("r+") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
        except OSError:  # alive, not ours, or just being made
            continue
