"""Do all ranks run the same units in the same order? With train.debug they compare before they go on.

Ranks of one pipeline stage that part ways wait in different collectives for ever. Here each announces every forward
and backward of a unit in the store, as its name and a hash of all before it, and reads what the others announce; so a
mismatch is an error on every rank, with the names, instead of a hang. It costs a few round trips to the store a unit.
"""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any
from zlib import crc32

from torch import Tensor, nn
from torch._C._distributed_c10d import PrefixStore, Store

from .mesh import Mesh
from .terms import GradientSync

PATIENCE = timedelta(seconds=60)  # for a rank that has not announced anything


class DisagreementError(RuntimeError):
    """Two ranks are at different places of what should be the same step."""


class Agreement:
    """What one rank announces, and what it expects of the others of its pipeline stage."""

    def __init__(self, mesh: Mesh, store: Store, patience: timedelta = PATIENCE) -> None:
        layout = mesh.layout
        stage = [r for r in range(layout.world_size) if layout.place(r).pipeline == mesh.place.pipeline]
        self.rank, self.peers = mesh.rank, [rank for rank in stage if rank != mesh.rank]
        self.store = PrefixStore("agreement", store)
        self.patience = patience
        self.count, self.digest = 0, 0

    def watch(self, program: nn.Module, paths: Sequence[str]) -> None:
        """Announce forward and backward of the modules at some paths."""
        for path in paths:
            module = program.get_submodule(path)
            module.register_forward_pre_hook(lambda *_, path=path: self.announce(f"forward of {path}"))
            module.register_forward_hook(lambda *found, path=path: self._announce_backward(found[-1], path))

    def announce(self, event: str) -> None:
        """Say what comes next on this rank, and go on when every other rank says the same.

        Raises:
            DisagreementError: some rank says something else, or nothing.
        """
        self.count += 1
        self.digest = crc32(event.encode(), self.digest)
        mine = f"{self.digest} {event}"
        self.store.set(f"{self.count}/{self.rank}", mine)
        for peer in self.peers:
            theirs = self._hear(peer, event)
            if theirs != mine:
                other = theirs.partition(" ")[2]
                raise DisagreementError(
                    f"rank {self.rank} comes to the {event}, rank {peer} to the {other} (event {self.count}): "
                    "every rank must run the same units equally often and in the same order"
                )
        if self.peers:  # all have read what came before
            self.store.delete_key(f"{self.count - 1}/{self.rank}")

    def _hear(self, peer: int, event: str) -> str:
        key = f"{self.count}/{peer}"
        try:
            self.store.wait([key], self.patience)
        except RuntimeError as error:
            raise DisagreementError(
                f"rank {self.rank} comes to the {event}, and rank {peer} has said nothing for "
                f"{self.patience.total_seconds():g} s (event {self.count}): it left the step, hangs or is much slower"
            ) from error
        text: bytes = self.store.get(key)
        return text.decode()

    def _announce_backward(self, output: Any, path: str) -> None:
        """Hang the announcement on the first tensor of a unit's output that will have a gradient."""
        values = output.values() if isinstance(output, dict) else output if isinstance(output, tuple) else (output,)
        flat = [x for value in values for x in (value if isinstance(value, tuple) else (value,))]
        for x in flat:
            if isinstance(x, Tensor) and x.requires_grad:
                x.register_hook(lambda _: self.announce(f"backward of {path}"))
                return


class Agreed:
    """A gradient synchronisation whose beginning and end every rank announces, so that no rank leaves a step alone."""

    def __init__(self, sync: GradientSync, agreement: Agreement) -> None:
        self.sync, self.agreement = sync, agreement

    def zero(self) -> None:
        """Clear the gradients; a step begins."""
        self.agreement.announce("beginning of a step")
        self.sync.zero()

    def prepare(self, last: bool, chunk: int = 0) -> None:
        """Announce a backward, and whether it is the step's last."""
        self.sync.prepare(last, chunk)

    def finish(self) -> None:
        """Return once every gradient is reduced."""
        self.agreement.announce("end of a step")
        self.sync.finish()


def watched(program: nn.Module, units: Sequence[str]) -> list[str]:
    """Paths that are watched: the entry's units, or else the networks that the Program is made of."""
    return list(units) or [name for name, _ in program.named_children()]
