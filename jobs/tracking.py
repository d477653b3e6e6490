"""How does a run get into TensorBoard? One reader of the run's events writes scalars into its tensorboard/ folder.

Invariant: it stands outside the workers, so it can slow or stop none of them; its run is the run folder, constant over
attempts, and steps that a restart takes back are withdrawn there too.
"""

import os
import platform
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from .events import Event
from .history import terms

SCALARS = {
    "step": {"loss": "train/loss", "lr": "train/learning_rate", "grad_norm": "train/gradient_norm"},
    "eval": {"loss": "validation/loss", "bits_per_byte": "validation/bits_per_byte"},
}


def installed() -> bool:
    """Whether tensorboard can be imported; says so without importing it."""
    return find_spec("tensorboard") is not None


class TensorBoard:
    """Takes events; writes the scalars of the lowest rank that reports a loss.

    After an error of the disk it writes no more; `failed` tells why.
    """

    def __init__(self, folder: Path) -> None:
        from tensorboard.summary.writer.record_writer import RecordWriter

        self.failed = ""
        self._rank: int | None = None
        name = f"events.out.tfevents.{int(time.time())}.{platform.node()}.{os.getpid()}"
        self._writer = RecordWriter((folder / name).open("ab"))
        self._write(time.time(), file_version="brain.Event:2")

    def update(self, event: Event) -> None:
        """Take one event; those that hold no scalars pass by."""
        if event.kind == "resume":
            self._withdraw(event)
        elif event.kind in SCALARS and self._reports(event):
            turn = f"/{event['turn']}" if event.get("turn") else ""  # phases' losses are different things
            values = {f"{tag}{turn}": event.get(name) for name, tag in SCALARS[event.kind].items()}
            if event.kind == "step" and event.get("tokens") and event.get("seconds"):
                values["train/tokens_per_second"] = event["tokens"] / event["seconds"]
            if event.kind == "step":
                values |= {f"train/{name}": value for name, value in terms(event).items()}
            self._scalars(event, {tag: float(value) for tag, value in values.items() if value is not None})

    def _reports(self, event: Event) -> bool:
        """Ranks agree on a loss; the lowest that told one speaks for all."""
        if event.rank is None or event.get("loss") is None:
            return False
        self._rank = event.rank if self._rank is None else min(self._rank, event.rank)
        return event.rank == self._rank

    def _withdraw(self, event: Event) -> None:
        from tensorboard.compat.proto.event_pb2 import SessionLog

        self._write(event.t, step=event["step"] + 1, session_log=SessionLog(status=SessionLog.START))

    def _scalars(self, event: Event, values: dict[str, float]) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary

        scalars = [Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()]
        self._write(event.t, step=event["step"], summary=Summary(value=scalars))

    def _write(self, t: float, **fields: Any) -> None:
        from tensorboard.compat.proto.event_pb2 import Event as Record

        if self.failed:
            return
        try:
            self._writer.write(Record(wall_time=t, **fields).SerializeToString())
            self._writer.flush()
        except OSError as error:
            self.failed = f"TensorBoard events are no longer written: {error}"

    def close(self) -> None:
        """Close the file."""
        self._writer.close()
