"""What does the kernel know of a process? Linux: /proc and prctl."""

import ctypes
import os
import signal
from pathlib import Path

PR_SET_PDEATHSIG = 1


def die_with_parent(parent: int, number: int = signal.SIGKILL) -> None:
    """Ask the kernel for a signal when the thread that started this process ends; 0 takes the wish back.

    Args:
        parent: process id; where it is dead already, the signal comes at once.
        number: the signal.
    """
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, int(number), 0, 0, 0)
    if os.getppid() != parent and number:
        os.kill(os.getpid(), number)


def is_running(pid: int) -> bool:
    """Whether a process exists and is no zombie."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in "ZX"


def count_threads() -> int:
    """Threads of this process, those of native libraries too."""
    return sum(1 for _ in Path("/proc/self/task").iterdir())
