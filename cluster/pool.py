"""How does a process without torch use ranks? It asks a warm zygote for a fresh group, and nothing outlives a group.

Every group is forked anew, so a failed or late one never dirties the next. One group lives at a time.
"""

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from ..jobs.assignment import Assignment
from .call import Call
from .group import Group, ZygoteDied
from .wire import Lines, encode

START_DEADLINE = 300.0  # seconds for the imports, on a machine that is busy with other things
ZYGOTE_ENVIRONMENT = {  # beside the caller's own
    "OMP_NUM_THREADS": "1",  # a process with more threads cannot fork; a worker takes as many as it is assigned
    "JE_ARROW_MALLOC_CONF": "background_thread:false",  # the same for pyarrow's allocator
    "GLOO_SOCKET_IFNAME": "lo",
}


class Pool:
    """Owns one zygote, which needs 2 to 5 seconds to get ready; the first group waits for it."""

    def __init__(self, modules: Sequence[str] = (), *, paths: Sequence[str] = (), device: str = "cpu") -> None:
        """Start the zygote, without waiting for it.

        Args:
            modules: imported before the workers are forked.
            paths: put in front of sys.path there.
            device: of the workers; with "cuda" nothing but imports happens before the fork.
        """
        self._device = device
        self._lines = Lines()
        self._inbox: list[dict[str, Any]] = []
        self._folder = tempfile.TemporaryDirectory(prefix="shardwright-pool-")
        self._group: Group | None = None
        self._calls = 0
        config = {"parent": os.getpid(), "paths": list(paths), "modules": list(modules), "rehearsal": device == "cpu"}
        self._control, theirs = socket.socketpair()
        with theirs, self.log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "shardwright.cluster.zygote", str(theirs.fileno()), json.dumps(config)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **ZYGOTE_ENVIRONMENT},
                pass_fds=[theirs.fileno()],
                start_new_session=True,  # a terminal's Ctrl-C reaches the launcher only
            )
        self._greeting: Mapping[str, Any] | None = None

    def ready(self, timeout: float) -> bool:
        """Wait until the imports are done; whether they are.

        Raises:
            ZygoteDied: they failed.
        """
        if self._greeting is None:
            self._greeting = self.receive(timeout)
        return self._greeting is not None

    @property
    def left_out(self) -> Mapping[str, str]:
        """Modules that the workers import themselves, with the reason."""
        return self._greeting["left_out"] if self._greeting is not None else {}

    @property
    def log(self) -> Path:
        """What the zygote itself printed."""
        return Path(self._folder.name, "zygote.log")

    @property
    def alive(self) -> bool:
        """Whether the zygote runs."""
        return self._process.poll() is None

    @property
    def pid(self) -> int:
        """Of the zygote."""
        return self._process.pid

    def start(self, assignments: Sequence[Assignment]) -> Group:
        """Fork a fresh group.

        Raises:
            RuntimeError: the last group is still alive.
            ZygoteDied: the zygote is dead, or takes too long to start.
        """
        if not self.ready(START_DEADLINE):
            raise ZygoteDied(f"the imports took longer than {START_DEADLINE:.0f} s")
        if self._group is not None and self._group.alive:
            raise RuntimeError(f"ranks {sorted(self._group.alive)} of the last group are alive: kill it first")
        self._group = Group(self, assignments)
        return self._group

    def run(
        self, task: str, world_size: int, payload: Mapping[str, Any] | None = None, deadline: float = 60
    ) -> list[Any]:
        """Run a task on fresh ranks.

        Args:
            task: "package.module:function" or "/path/file.py:function"; called as function(worker, **payload).
            world_size: number of ranks.
            payload: JSON values.
            deadline: seconds for all of it; a late group is killed.

        Returns:
            What the task returned, by rank.

        Raises:
            RankFailure: a rank failed, died or was late; the message has the tracebacks.
        """
        self._calls += 1
        logs = Path(self._folder.name, f"call-{self._calls}")
        ranks = [
            Assignment(
                task,
                rank,
                world_size,
                payload or {},
                local_rank=rank,
                device=self._device,
                timeout=max(deadline, 1.0),
                log=str(logs / f"rank-{rank}.log"),
            )
            for rank in range(world_size)
        ]
        group = self.start(ranks)
        try:
            return Call(task, group, logs).finish(deadline)
        finally:
            if group.alive:  # the caller was interrupted
                group.kill()

    def send(self, command: dict[str, Any]) -> None:
        """Give the zygote a command."""
        try:
            self._control.sendall(encode(command))
        except OSError:
            self._raise_dead()

    def receive(self, timeout: float) -> dict[str, Any] | None:
        """The zygote's next line, or None after `timeout` seconds."""
        until = time.monotonic() + timeout
        while not self._inbox:
            self._control.settimeout(max(until - time.monotonic(), 1e-6))
            try:
                data = self._control.recv(1 << 16)
            except TimeoutError:
                return None
            except ConnectionError:
                data = b""
            if not data:
                self._raise_dead()
            self._inbox = self._lines.feed(data)
        return self._inbox.pop(0)

    def close(self) -> None:
        """End the zygote and whatever it forked; may be called twice."""
        self._control.close()  # it then kills its workers and leaves
        if self._greeting is None:
            self._process.kill()  # it is still importing, and has no workers
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._folder.cleanup()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _raise_dead(self) -> None:
        self._process.kill()
        code = self._process.wait()
        tail = self.log.read_text(errors="replace")[-4000:]
        raise ZygoteDied(f"the process that forks workers ended (exit status {code}):\n{tail}")
