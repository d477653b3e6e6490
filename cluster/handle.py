"""How does a caller follow a run? By its folder alone, whoever started it and wherever its processes are."""

import os
import platform
import signal
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..jobs.events import read
from ..jobs.history import History, history, state
from ..jobs.run_folder import RunError, RunFolder
from ..trainers.checkpoint.manifest import newest

POLL = 0.1  # seconds between two looks at a run
HURRY = 4.0  # seconds of grace after Ctrl-C
GRACE = 30.0  # seconds of grace after any other wish to stop
SUPERVISOR_LOG = "supervisor.log"


@dataclass(frozen=True)
class Status:
    """Where a run stands."""

    state: str  # new, running, finished, stopped, failed or interrupted
    step: int  # steps done that count
    report: str = ""  # why it failed


class Handle:
    """One run; everything is read from its folder when it is asked for."""

    def __init__(self, run: RunFolder, process: "subprocess.Popen[bytes] | None" = None) -> None:
        self.run = run
        self._process = process  # the supervisor, where this process started it

    def __repr__(self) -> str:
        return f"<run {self.run.path}: {self.status.state}>"

    @property
    def live(self) -> bool:
        """Whether a job is on the run."""
        if self._process is not None:
            return self._process.poll() is None
        return self.run.holder() is not None

    @property
    def status(self) -> Status:
        """Where it stands now."""
        live, record = self.live, self._history()
        failed = record.last("give_up")
        found = state(record, live)
        report = failed.get("report", "") if found == "failed" and failed else ""
        return Status(found, record.step, report or (self._last_words() if found in ("new", "interrupted") else ""))

    @property
    def metrics(self) -> list[Mapping[str, Any]]:
        """The steps that count, oldest first: step, loss, lr, grad_norm, tokens, seconds and what else was reported."""
        return [event.fields for event in self._history().curve]

    def logs(self, rank: int, attempt: int | None = None) -> str:
        """Everything that a rank printed during an attempt, the last one where none is named."""
        last = self.run.next_attempt() - 1 if attempt is None else attempt
        return self.run.log(last, rank).read_text(errors="replace")

    def checkpoint(self) -> Path | None:
        """The newest checkpoint."""
        return newest(self.run.checkpoints)

    def wait(self, timeout: float | None = None) -> Status:
        """Wait until no job is on the run. Ctrl-C while waiting stops the run, if this process started it.

        Raises:
            TimeoutError: it is still live after `timeout` seconds.
        """
        try:
            self._wait(timeout)
        except KeyboardInterrupt:
            if self._process is not None:
                self._process.send_signal(signal.SIGINT)
                self._wait(HURRY + GRACE)
            raise
        return self.status

    def stop(self, timeout: float = GRACE + HURRY) -> Status:
        """Let the ranks save and leave, and wait for it; a run that is not live stays as it is.

        Raises:
            RunError: the run is live on another machine.
            TimeoutError: it is still live after `timeout` seconds.
        """
        if self._process is not None:
            self._process.terminate()
        elif holder := self.run.holder():
            if holder.host != platform.node():
                raise RunError(f"run {self.run.name} is live on {holder.host}: stop it there")
            os.kill(holder.pid, signal.SIGTERM)
        return self.wait(timeout)

    def _wait(self, timeout: float | None) -> None:
        until = None if timeout is None else time.monotonic() + timeout
        while self.live:
            if until is not None and time.monotonic() > until:
                raise TimeoutError(f"run {self.run.name} is still live after {timeout:g} s")
            time.sleep(POLL)

    def _history(self) -> History:
        return history(read(self.run.events))

    def _last_words(self) -> str:
        """What a supervisor that never came to watch printed."""
        log = self.run.logs / SUPERVISOR_LOG
        return log.read_text(errors="replace")[-2000:] if log.is_file() else ""
