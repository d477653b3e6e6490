"""How does a rank keep its newest state so that a killed process costs no step? Two slots in shared memory.

Every write goes to the slot that does not hold the newest state. No rank can finish step s + 1 before all wrote step s,
so the newest step that all ranks hold is always whole on all of them. The supervisor reads `committed` and
`newest_common` without torch; only `Slots` needs it.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .slot_file import SlotFile, SnapshotError, committed, newest_common

if TYPE_CHECKING:
    import torch

__all__ = ["Slots", "SnapshotError", "committed", "newest_common"]


class Slots:
    """This rank's snapshots of a fixed set of tensors. Nothing here is collective."""

    def __init__(self, folder: Path, tensors: "Mapping[str, torch.Tensor]") -> None:
        """Map the rank's file, or make it; snapshots of another layout are dropped.

        Args:
            folder: this rank's folder in shared memory, which exists and is nobody else's.
            tensors: live references; of a DTensor, this rank's shard is kept.

        Raises:
            SnapshotError: there is no room for two slots.
        """
        from . import shards  # it imports torch

        self._shards = shards.Shards(tensors)
        self._file = SlotFile(folder, self._shards.stamp)
        self._copies = [self._shards.views(self._file.map, self._file.start(slot)) for slot in (0, 1)]
        self._newest: int | None = None  # the slot that holds the state this process goes on from

    def write(self, step: int, host: Mapping[str, Any]) -> None:
        """Keep the tensors as they are now, and JSON values, as the state after a step.

        The first write of a process that read no snapshot drops what earlier attempts left: they are of another past.

        Raises:
            SnapshotError: the host values do not fit.
        """
        if self._newest is None:
            self._file.clear(0)
            self._file.clear(1)
        slot = 1 - self._newest if self._newest is not None else 0
        self._file.clear(slot)
        self._shards.copy_to(self._copies[slot])
        self._file.commit(slot, step, host)
        self._newest = slot

    def read(self, step: int) -> dict[str, Any]:
        """Fill the tensors in place with the snapshot of a step.

        Returns:
            The host values kept with it.

        Raises:
            SnapshotError: no whole snapshot of this step and layout is here.
        """
        held = self._file.steps()
        found = [slot for slot, kept in held.items() if kept == step]
        if not found:
            raise SnapshotError(
                f"no snapshot of step {step} under this layout (held: {sorted(held.values()) or 'none'}): resume from "
                "a checkpoint"
            )
        self._shards.copy_from(self._copies[found[0]])
        self._newest = found[0]
        return self._file.host(found[0])
