"""Does the rehearsal work with this torch, and leave a process that can be forked?"""

import subprocess
import sys

CODE = """
from pathlib import Path
import torch.distributed as dist
from shardwright.trainers import warm
warm.preload()
assert warm.rehearse()
assert not dist.is_initialized()
assert len(list(Path("/proc/self/task").iterdir())) == 1
"""


def test_the_rehearsal_runs_and_leaves_one_thread():
    environment = {"OMP_NUM_THREADS": "1", "PATH": "/usr/bin:/bin"}
    done = subprocess.run([sys.executable, "-c", CODE], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "" and done.stderr == ""
