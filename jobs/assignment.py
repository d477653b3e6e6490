"""What is one worker process told? Its task, its place, and where to report; plain values that travel as JSON."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Self


@dataclass(frozen=True)
class Assignment:
    """The work of one rank in one attempt. Equal on all ranks but for rank, local_rank, log, events and snapshots."""

    task: str  # "package.module:function" or "/path/file.py:function", called as function(worker, **payload)
    rank: int
    world_size: int
    payload: Mapping[str, Any] = field(default_factory=dict)  # JSON values
    local_rank: int = 0
    attempt: int = 0
    device: str = "cpu"  # cpu: gloo; cuda: nccl, with gloo for tensors on the CPU
    threads: int = 1  # of torch in this process
    timeout: float = 1800.0  # seconds before a collective gives up
    host: str = "127.0.0.1"  # of the rendezvous store, which rank 0 serves
    port: int = 0  # of the rendezvous store
    log: str = ""  # file that receives stdout and stderr; empty: inherited
    events: str = ""  # file that receives the events; empty: none
    snapshots: str = ""  # folder in shared memory; empty: no snapshots

    def to_json(self) -> dict[str, Any]:
        """A JSON object; the inverse of from_json."""
        return asdict(self)

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Self:
        """The assignment that to_json wrote."""
        return cls(**fields)
