"""How do two snapshots lie in one memory-mapped file, and which of them are whole? Without torch.

    preamble (4096 bytes): magic, format, rank, world size, bytes a slot, signature of the layout, checksum
    slot 0: header (65536 bytes): checksum, step, length of the host text; the host text; then the data
    slot 1: the same

A write first clears its slot's header and writes it last, so a process that is killed at any instruction leaves the
other slot as it was and this one either old, void or whole: what a dead process wrote to a shared mapping stays, in
order. The file does not outlive the machine, so the data has no checksum.
"""

import json
import mmap
import os
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FILE = "slots"
FORMAT = 1
MAGIC = b"SWSLOTS\0"
PREAMBLE = struct.Struct("<8sIIIQ32s")  # magic, format, rank, world size, bytes a slot, signature
HEADER = struct.Struct("<QI")  # step, bytes of the host text
CHECKSUM = struct.Struct("<I")  # before each of them; zero where there is nothing
PREAMBLE_BYTES = mmap.PAGESIZE
HEADER_BYTES = 65536


class SnapshotError(RuntimeError):
    """A snapshot that cannot be kept or read; the message says why and what to do."""


@dataclass(frozen=True)
class Stamp:
    """For which rank, layout and tensors a file was made."""

    rank: int
    world_size: int
    slot_bytes: int  # of one slot's data
    signature: bytes  # 32 bytes over names, shapes, dtypes and placements


class SlotFile:
    """The file of one rank, mapped: `data` holds both slots' bytes."""

    def __init__(self, folder: Path, stamp: Stamp) -> None:
        """Open the rank's file, or make a new one where there is none or it is of another stamp.

        Raises:
            SnapshotError: the folder's file system has no room for two slots.
        """
        path = folder / FILE
        if _stamp(path) != stamp:
            _create(path, stamp)
        with path.open("r+b") as file:
            # Mapped pages are touched now, not within the first two steps.
            self.map = mmap.mmap(file.fileno(), 0, flags=mmap.MAP_SHARED | mmap.MAP_POPULATE)
        self.slot_bytes = stamp.slot_bytes

    def start(self, slot: int) -> int:
        """Byte offset of a slot's data in the map."""
        return _header_start(slot, self.slot_bytes) + HEADER_BYTES

    def steps(self) -> dict[int, int]:
        """Whole slots: slot -> step."""
        texts = {slot: _decode(self._header(slot)) for slot in (0, 1)}
        return {slot: found[0] for slot, found in texts.items() if found}

    def host(self, slot: int) -> dict[str, Any]:
        """The host values of a whole slot."""
        found = _decode(self._header(slot))
        return dict(found[1]) if found else {}

    def clear(self, slot: int) -> None:
        """From here on the slot is void."""
        start = _header_start(slot, self.slot_bytes)
        self.map[start : start + CHECKSUM.size] = bytes(CHECKSUM.size)

    def commit(self, slot: int, step: int, host: Mapping[str, Any]) -> None:
        """The slot's data is whole: write its header, the checksum last.

        Raises:
            SnapshotError: the host values do not fit.
        """
        text = json.dumps(host).encode()
        header = HEADER.pack(step, len(text)) + text
        if CHECKSUM.size + len(header) > HEADER_BYTES:
            raise SnapshotError(
                f"the host values of step {step} take {len(text)} bytes, a snapshot has room for {HEADER_BYTES}"
            )
        start = _header_start(slot, self.slot_bytes)
        self.map[start + CHECKSUM.size : start + CHECKSUM.size + len(header)] = header
        self.map[start : start + CHECKSUM.size] = _checksum(header)

    def _header(self, slot: int) -> bytes:
        start = _header_start(slot, self.slot_bytes)
        return self.map[start : start + HEADER_BYTES]


def committed(folder: Path) -> list[int]:
    """Steps of the whole snapshots in one rank's folder, oldest first; none where there is no file."""
    return sorted(step for step, _ in _read_slots(folder / FILE))


def newest_common(folders: Sequence[Path]) -> int | None:
    """The newest step that all ranks hold, given the folders in rank order; None where there is none.

    Snapshots of another world size, or of ranks in another order, count as none.
    """
    stamps = [_stamp(folder / FILE) for folder in folders]
    places = [(stamp.rank, stamp.world_size) for stamp in stamps if stamp]
    if not places or places != [(rank, len(folders)) for rank in range(len(folders))]:
        return None
    common = set.intersection(*(set(committed(folder)) for folder in folders))
    return max(common, default=None)


def _create(path: Path, stamp: Stamp) -> None:
    fields = PREAMBLE.pack(MAGIC, FORMAT, stamp.rank, stamp.world_size, stamp.slot_bytes, stamp.signature)
    size = PREAMBLE_BYTES + 2 * (HEADER_BYTES + stamp.slot_bytes)
    aside = path.with_name(f"{FILE}.new")
    path.unlink(missing_ok=True)  # first, for its room
    try:
        with aside.open("wb") as file:
            # Room is taken now: a mapped page without room behind it kills the process with SIGBUS.
            os.posix_fallocate(file.fileno(), 0, size)
            file.write(_checksum(fields) + fields)
    except OSError as error:
        aside.unlink(missing_ok=True)
        raise SnapshotError(
            f"no room for snapshots of {size / 1e6:.0f} MB in {path.parent} ({error.strerror}): give the machine more "
            "shared memory, or take no snapshots"
        ) from error
    aside.rename(path)


def _stamp(path: Path) -> Stamp | None:
    size = CHECKSUM.size + PREAMBLE.size
    try:
        with path.open("rb") as file:
            found = file.read(size)
    except FileNotFoundError:
        return None
    if len(found) != size or found[: CHECKSUM.size] != _checksum(found[CHECKSUM.size :]):
        return None
    magic, version, *fields = PREAMBLE.unpack(found[CHECKSUM.size :])
    return Stamp(*fields) if (magic, version) == (MAGIC, FORMAT) else None


def _read_slots(path: Path) -> list[tuple[int, Mapping[str, Any]]]:
    stamp = _stamp(path)
    if stamp is None:
        return []
    with path.open("rb") as file:
        headers = []
        for slot in (0, 1):
            file.seek(_header_start(slot, stamp.slot_bytes))
            headers.append(file.read(HEADER_BYTES))
    return [found for found in map(_decode, headers) if found]


def _decode(header: bytes) -> tuple[int, Mapping[str, Any]] | None:
    fields = header[CHECKSUM.size :]
    step, length = HEADER.unpack_from(fields)
    text = fields[HEADER.size : HEADER.size + length]
    if header[: CHECKSUM.size] != _checksum(fields[: HEADER.size + length]):
        return None
    return step, json.loads(text)


def _checksum(content: bytes) -> bytes:
    return CHECKSUM.pack(zlib.crc32(content) or 1)  # zero means void


def _header_start(slot: int, slot_bytes: int) -> int:
    return PREAMBLE_BYTES + slot * (HEADER_BYTES + slot_bytes)
