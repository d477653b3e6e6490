"""Which devices does this machine have? Answered without torch and without touching a driver."""

import os
from collections.abc import Mapping
from pathlib import Path

from ..jobs.spec import JobError

NODES = Path("/dev")


def count_gpus(environ: Mapping[str, str] = os.environ, nodes: Path = NODES) -> int:
    """NVIDIA GPUs that a process started here may use: CUDA_VISIBLE_DEVICES where it is set, else the device files."""
    visible = environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return len([word for word in visible.split(",") if word.strip() and word.strip() != "-1"])
    return sum(1 for node in nodes.glob("nvidia*") if node.name.removeprefix("nvidia").isdecimal())


def choose_device(wanted: str, workers: int, gpus: int) -> str:
    """`cpu` or `cuda` for a job's resources.device.

    Raises:
        JobError: cuda is wanted, but there is not one GPU for each worker.
    """
    if wanted == "auto":
        return "cuda" if gpus >= workers else "cpu"
    if wanted == "cuda" and gpus < workers:
        raise JobError(
            f"resources.device = 'cuda' with resources.workers = {workers}, but this machine shows {gpus} GPUs: "
            "ask for fewer workers, or device = 'cpu'"
        )
    return wanted
