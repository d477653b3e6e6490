"""How do tensors reach the disk? A storage writer for torch's distributed checkpoint: one safetensors file a rank.

Why not torch's own: FileSystemWriter keeps its index as a pickle, which a run folder must not hold.
HuggingFaceStorageWriter builds each file in memory before writing it, refuses tensors that are not contiguous or that
share memory, and leaves the checksums to a second pass. This one streams tensor by tensor, hashing as it writes; the
files carry the same sharding header, so torch's HuggingFaceStorageReader, and any safetensors reader, opens them.
"""

import hashlib
import json
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint.metadata import Metadata
from torch.distributed.checkpoint.planner import SavePlan, SavePlanner, WriteItem
from torch.distributed.checkpoint.storage import StorageWriter, WriteResult
from torch.futures import Future

from .manifest import CheckpointError, DataFile, Manifest, folder_name
from .publish import begin, discard, publish

DTYPES: Mapping[torch.dtype, str] = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


class SafetensorsWriter(StorageWriter):
    """Writes and publishes one checkpoint. Rank 0 owns the folder; a failure on any rank is raised on every rank."""

    def __init__(self, root: Path, step: int, host: Mapping[str, Any], attempt: int, keep: int) -> None:
        self.root, self.step, self.host, self.attempt, self.keep = root, step, host, attempt, keep
        self.fresh: Path | None = None  # rank 0's folder while it is not published
        self.world_size = 1

    def reset(self, checkpoint_id: str | os.PathLike[str] | None = None) -> None:
        """Nothing to forget: one writer saves one checkpoint."""

    def set_up_storage_writer(self, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:
        """Nothing to set up."""

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | os.PathLike[str]) -> bool:
        """The folder is given to the constructor."""
        return False

    def prepare_local_plan(self, plan: SavePlan) -> SavePlan:
        """Every rank writes what it is asked to."""
        return plan

    def prepare_global_plan(self, plans: list[SavePlan]) -> list[SavePlan]:
        """Rank 0: make the fresh folder and give each rank its file; nobody writes a step that is published."""
        self.world_size = len(plans)
        self.fresh = begin(self.root, self.step, self.attempt)
        if self.fresh is None:
            return [replace(plan, items=[]) for plan in plans]
        paths = [self.fresh / f"rank-{rank:05}.safetensors" for rank in range(len(plans))]
        return [replace(plan, storage_data=path) for plan, path in zip(plans, paths, strict=True)]

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        """Every rank: write its own file."""
        results: list[WriteResult] = []
        if plan.items:
            items = sorted(plan.items, key=_by_alignment)
            file = write_file(plan.storage_data, items, planner)
            results = [WriteResult(item.index, _bytes(item), file) for item in items]
        done: Future[list[WriteResult]] = Future()
        done.set_result(results)
        return done

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        """Rank 0, after all ranks wrote: the manifest and the rename."""
        if self.fresh is not None:
            publish(self.fresh, self._manifest(metadata, results), self.keep)
            self.fresh = None

    def abandon(self) -> None:
        """Remove the folder of a save that failed."""
        if self.fresh is not None:
            discard(self.fresh)

    def _manifest(self, metadata: Metadata, results: list[list[WriteResult]]) -> Manifest:
        files = {result.storage_data for written in results for result in written}
        return Manifest(
            path=self.root / folder_name(self.step),
            step=self.step,
            attempt=self.attempt,
            world_size=self.world_size,
            torch=torch.__version__,
            written=time.time(),
            host=self.host,
            tensors=len(metadata.state_dict_metadata),
            files=tuple(sorted(files, key=lambda file: file.name)),
        )


def write_file(path: Path, items: Sequence[WriteItem], planner: SavePlanner) -> DataFile:
    """Write one safetensors file, one tensor in memory at a time."""
    blocks: Iterable[bytes | memoryview] = chain([_header(items)], (_content(item, planner) for item in items))
    digest, size = hashlib.sha256(), 0
    with path.open("xb") as file:
        for block in blocks:
            digest.update(block)
            size += file.write(block)
        file.flush()
        os.fsync(file.fileno())
    return DataFile(path.name, size, digest.hexdigest())


def _header(items: Sequence[WriteItem]) -> bytes:
    # The safetensors format: length of the header as 8 bytes, little-endian; JSON padded to 8; data without holes.
    entries: dict[str, Any] = {}
    offsets, end = {}, 0
    for item in items:
        start, end = end, end + _bytes(item)
        name, chunk = item.index.fqn, _data(item).chunk
        if name in entries:
            raise CheckpointError(f"tensor {name!r} has two pieces on one rank, which a checkpoint file cannot hold")
        shape, dtype = list(chunk.sizes), _dtype(item)
        entries[name] = {"dtype": DTYPES[dtype], "shape": shape, "data_offsets": [start, end]}
        offsets[name] = {"saved_offsets": list(chunk.offsets)}
    extra = {"format": "pt", "DCP_VERSION": "1.0", "DCP_SHARDING_INFO": json.dumps(offsets)}
    text = json.dumps({"__metadata__": extra, **entries}).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _content(item: WriteItem, planner: SavePlanner) -> memoryview:
    tensor = planner.resolve_data(item)
    if not isinstance(tensor, torch.Tensor):
        raise CheckpointError(f"{item.index.fqn!r} is not a tensor; values that are not belong into the host state")
    array: Any = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    return memoryview(array)


def _by_alignment(item: WriteItem) -> tuple[int, str]:
    return -_dtype(item).itemsize, item.index.fqn  # wide numbers first: each starts at a multiple of its size


def _data(item: WriteItem) -> Any:
    if item.tensor_data is None:
        raise CheckpointError(f"{item.index.fqn!r} is not a tensor; values that are not belong into the host state")
    return item.tensor_data


def _dtype(item: WriteItem) -> torch.dtype:
    dtype: torch.dtype = _data(item).properties.dtype
    if dtype not in DTYPES:
        raise CheckpointError(f"tensor {item.index.fqn!r} has {dtype}, which a checkpoint cannot hold")
    return dtype


def _bytes(item: WriteItem) -> int:
    return int(_data(item).chunk.sizes.numel()) * _dtype(item).itemsize
