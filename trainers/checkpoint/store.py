"""How does training state reach a run folder and come back, whatever the layout?

Both calls are collective: every rank calls them with the same arguments and its own tensors, and either all return or
all raise. The state is flat: dotted names to tensors (a DTensor stands for its whole logical tensor, a plain tensor is
the same on every rank that holds its name) and `host`, a dict of JSON values that is the same on every rank.
"""

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.checkpoint import state_dict_loader, state_dict_saver
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultSavePlanner
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader

from .manifest import CheckpointError, Manifest, check_files, folder_name, read
from .planner import StrictPlanner
from .writer import SafetensorsWriter


def save(
    root: Path, step: int, tensors: Mapping[str, torch.Tensor], host: Mapping[str, Any], *, attempt: int, keep: int
) -> Path:
    """Publish a checkpoint and keep the `keep` newest; a step that is already published is left as it is.

    Args:
        root: folder of the run's checkpoints.
        step: optimizer steps done.
        tensors: this rank's tensors by name.
        host: JSON values; rank 0's are written.
        attempt: this attempt of the run; one that is not the newest is refused.

    Returns:
        The checkpoint's folder.

    Raises:
        CheckpointError: on every rank, when any rank fails; nothing is published then.
    """
    writer = SafetensorsWriter(root, step, host, attempt, keep)
    planner = DefaultSavePlanner(flatten_state_dict=False, flatten_sharded_tensors=False)
    try:
        with _one_error(f"step {step} was not saved into {root}"):
            alone = not dist.is_initialized()
            state_dict_saver.save(dict(tensors), storage_writer=writer, planner=planner, no_dist=alone)
    finally:
        writer.abandon()
    return root / folder_name(step)


def load(path: Path, tensors: Mapping[str, torch.Tensor], *, prefix: str = "") -> dict[str, Any]:
    """Verify a checkpoint and fill tensors in place, whatever layout and number of ranks saved it.

    Args:
        path: a checkpoint's folder.
        tensors: this rank's tensors by name; all ranks together hold exactly the checkpoint's names.
        prefix: of the checkpoint, only the names that begin with this count ("model." for the weights alone).

    Returns:
        The host values that were saved.

    Raises:
        CheckpointError: on every rank: it is no checkpoint, damaged, of a newer format, or of another model.
    """
    manifest = _verified(path)
    reader = HuggingFaceStorageReader(str(path))
    with _one_error(f"checkpoint {path} was not loaded"):
        state_dict_loader.load(
            dict(tensors),
            storage_reader=reader,
            planner=StrictPlanner(path, prefix),
            no_dist=not dist.is_initialized(),
        )
    return dict(manifest.host)


def _verified(path: Path) -> Manifest:
    """The manifest, after each rank compared its share of the files with their checksums."""
    rank, world_size = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)

    def check() -> Manifest:
        manifest = read(path)
        extra = {file.name for file in path.glob("*.safetensors")} - {file.name for file in manifest.files}
        if extra:
            raise CheckpointError(f"checkpoint {path} holds files that were not saved with it: {sorted(extra)}")
        check_files(manifest, manifest.files[rank::world_size])
        return manifest

    return _all_or_none(check, world_size)


def _all_or_none(check: Callable[[], Manifest], world_size: int) -> Manifest:
    manifest, failure = None, ""
    try:
        manifest = check()
    except (CheckpointError, OSError) as error:
        failure = str(error)
    failures = [failure]
    if dist.is_initialized():
        failures = [""] * world_size
        dist.all_gather_object(failures, failure)
    if manifest is None or any(failures):
        raise CheckpointError("; ".join(dict.fromkeys(text for text in failures if text)))
    return manifest


@contextmanager
def _one_error(what: str) -> Iterator[None]:
    # torch wraps the failures of all ranks in a CheckpointException, which is a BaseException: nothing above would
    # catch it. It also warns where no process group exists, which is how one process reads a checkpoint.
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="torch.distributed is disabled", category=UserWarning)
            yield
    except CheckpointException as error:
        raise CheckpointError(
            _sentence(what, {rank: failure for rank, (failure, _) in error.failures.items()})
        ) from error


def _sentence(what: str, failures: Mapping[int, BaseException]) -> str:
    ours = dict.fromkeys(str(failure) for failure in failures.values() if isinstance(failure, CheckpointError))
    others = [f"rank {rank}: {failure!r}" for rank, failure in failures.items() if str(failure) not in ours]
    return "; ".join([*ours, *([f"{what}: {'; '.join(others)}"] if others else [])])
