"""How does a checkpoint become visible? A fresh folder, the manifest written last, one atomic rename.

A published folder is never written into. Only one process of a run calls these; an older attempt of the run that is
still alive is refused.
"""

import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from .manifest import MANIFEST, CheckpointError, Manifest, encode, folder_name, published, read, write_durably

TEMPORARY = re.compile(r"\.step-\d+\.attempt-(\d+)\.[a-z]+-[0-9a-f]+")


def begin(root: Path, step: int, attempt: int) -> Path | None:
    """A fresh folder to save into; None where this step is already published.

    Raises:
        CheckpointError: a newer attempt of the run saves here.
    """
    root.mkdir(parents=True, exist_ok=True)
    _refuse_stale(root, attempt)
    path = root / folder_name(step)
    if path in published(root):
        return None
    fresh = _hidden(path, attempt, "tmp")
    fresh.mkdir()
    return fresh


def publish(fresh: Path, manifest: Manifest, keep: int) -> None:
    """Write the manifest, rename the folder to `manifest.path`, then remove what is no longer kept.

    Raises:
        CheckpointError: a newer attempt of the run saves here.
    """
    root = manifest.path.parent
    write_durably(fresh / MANIFEST, encode(manifest))
    _sync(fresh)
    _refuse_stale(root, manifest.attempt)
    if manifest.path.exists() and manifest.path not in published(root):  # its manifest was deleted by hand
        _remove(manifest.path, manifest.attempt)
    fresh.rename(manifest.path)  # refused by the system where the target holds files
    _sync(root)
    _prune(root, manifest, keep)


def discard(fresh: Path) -> None:
    """Remove what a failed save left."""
    shutil.rmtree(fresh, ignore_errors=True)


def _prune(root: Path, manifest: Manifest, keep: int) -> None:
    others = [path for path in published(root) if path != manifest.path]
    for old in others[: max(0, len(others) - (keep - 1))]:
        _remove(old, manifest.attempt)
    for path, attempt in _leftovers(root):
        if attempt <= manifest.attempt:
            shutil.rmtree(path, ignore_errors=True)


def _remove(path: Path, attempt: int) -> None:
    # Renamed first: a removal that is killed midway leaves nothing that is listed.
    hidden = _hidden(path, attempt, "old")
    path.rename(hidden)
    shutil.rmtree(hidden, ignore_errors=True)


def _refuse_stale(root: Path, attempt: int) -> None:
    newest = max([*_attempts(root), *(found for _, found in _leftovers(root))], default=attempt)
    if newest > attempt:
        raise CheckpointError(
            f"attempt {newest} of this run saves into {root}, so attempt {attempt} must not: stop the older one"
        )


def _attempts(root: Path) -> Iterator[int]:
    for path in published(root):
        with suppress(CheckpointError):  # an older checkpoint that is damaged stops no run
            yield read(path).attempt


def _leftovers(root: Path) -> Iterator[tuple[Path, int]]:
    for path in root.iterdir():
        if found := TEMPORARY.fullmatch(path.name):
            yield path, int(found[1])


def _hidden(path: Path, attempt: int, kind: str) -> Path:
    return path.with_name(f".{path.name}.attempt-{attempt}.{kind}-{secrets.token_hex(4)}")


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
