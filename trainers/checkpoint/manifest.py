"""Which checkpoints does a run have, and what is in them? Read without torch, and without pickle.

A folder is a checkpoint when it is named `step-000000100` and holds `manifest.json`, which is written last: a save
that was killed is never listed.
"""

import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

FORMAT = 1
MANIFEST = "manifest.json"
FOLDER = re.compile(r"step-(\d{9,})")


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be written, read or used; the message says why and what to do."""


@dataclass(frozen=True)
class DataFile:
    """One safetensors file of a checkpoint."""

    name: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """What a checkpoint says of itself."""

    path: Path  # the checkpoint's folder
    step: int  # optimizer steps done
    attempt: int  # the attempt of the run that wrote it
    world_size: int  # ranks that wrote it; any number can read it
    torch: str  # version that wrote it
    written: float  # unix seconds
    host: Mapping[str, Any]  # JSON values of the loop
    tensors: int  # number of named tensors
    files: tuple[DataFile, ...]

    @property
    def bytes(self) -> int:
        """Bytes of all data files."""
        return sum(file.bytes for file in self.files)


def folder_name(step: int) -> str:
    """`step-000000100` for step 100."""
    return f"step-{step:09}"


def encode(manifest: Manifest) -> str:
    """The text of manifest.json."""
    fields = {name: value for name, value in asdict(manifest).items() if name != "path"}
    return json.dumps({"format": FORMAT, **fields}, indent=1) + "\n"


def read(path: Path) -> Manifest:
    """The manifest of one checkpoint folder.

    Raises:
        CheckpointError: there is no manifest, it is of a newer format, or it is damaged.
    """
    try:
        content = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        if content["format"] > FORMAT:
            raise CheckpointError(
                f"checkpoint {path} has format {content['format']}, this version of shardwright reads formats up to "
                f"{FORMAT}: install a newer shardwright"
            )
        return _decode(path, content)
    except (FileNotFoundError, NotADirectoryError):
        raise CheckpointError(
            f"{path} is not a checkpoint: it has no {MANIFEST}, which a save writes last; choose another checkpoint"
        ) from None
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path / MANIFEST} is damaged ({error!r}): choose another checkpoint") from error


def published(root: Path) -> list[Path]:
    """Folders of all published checkpoints, oldest step first; none where the folder is missing."""
    if not root.is_dir():
        return []
    found = [path for path in root.iterdir() if FOLDER.fullmatch(path.name) and (path / MANIFEST).exists()]
    return sorted(found, key=lambda path: int(path.name.removeprefix("step-")))


def listing(root: Path) -> list[Manifest]:
    """The manifests of all published checkpoints, oldest step first.

    Raises:
        CheckpointError: a published manifest cannot be read.
    """
    return [read(path) for path in published(root)]


def newest(root: Path) -> Path | None:
    """The published checkpoint of the highest step."""
    found = published(root)
    return found[-1] if found else None


def check_files(manifest: Manifest, files: Iterable[DataFile]) -> None:
    """Compare data files with their sizes and checksums.

    Raises:
        CheckpointError: a file is missing, or has other content than what was saved.
    """
    for file in files:
        path = manifest.path / file.name
        try:
            size = path.stat().st_size
            digest = _sha256(path) if size == file.bytes else ""
        except FileNotFoundError:
            raise CheckpointError(f"checkpoint {manifest.path} lacks {file.name}: choose another checkpoint") from None
        if digest != file.sha256:
            raise CheckpointError(
                f"{path} is damaged: {size} bytes with another checksum than the {file.bytes} bytes that were saved; "
                "choose another checkpoint"
            )


def write_durably(path: Path, text: str) -> None:
    """Write a new file and wait until it is on disk."""
    with path.open("x", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _decode(path: Path, content: Mapping[str, Any]) -> Manifest:
    fields = {name: value for name, value in content.items() if name in Manifest.__dataclass_fields__}
    return Manifest(**{**fields, "path": path, "files": tuple(DataFile(**file) for file in content["files"])})


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
