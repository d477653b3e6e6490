"""Who forks the workers? A process that has imported everything, owns one thread, and is never touched by their work.

`python -m shardwright.cluster.zygote FD CONFIG` preloads, then serves JSON lines on the socket FD until it closes:
commands {"do": "fork" | "signal" | "quit"} come in; "ready", "forked", "told" (a worker's own line), "halted" and
"gone" go out. A worker's lines are always passed on before its death is. When the socket closes, all workers die.
It never touches CUDA: a CUDA context does not survive a fork.
"""

import contextlib
import gc
import json
import os
import selectors
import signal
import socket
import sys
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import import_module
from typing import Any, NoReturn

from ..jobs.assignment import Assignment
from ..jobs.worker import enter
from .processes import count_threads, die_with_parent
from .wire import Lines, encode


@dataclass
class Child:
    """A living worker."""

    rank: int
    pid: int
    pipe: int
    lines: Lines = field(default_factory=Lines)


class Zygote:
    """Serves one supervisor; at most one group of workers lives at a time."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._commands = Lines()
        self._children: dict[int, Child] = {}
        self._selector = selectors.DefaultSelector()
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_read, False)
        os.set_blocking(self._wake_write, False)
        self._pid = os.getpid()

    def serve(self) -> None:
        """Until the supervisor quits or dies."""
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)  # a handler, so that the wake-up byte is written
        self._selector.register(self._control, selectors.EVENT_READ)
        self._selector.register(self._wake_read, selectors.EVENT_READ)
        try:
            while self._turn():
                pass
        finally:
            self._signal(signal.SIGKILL)

    def send(self, kind: str, **fields: Any) -> None:
        """Tell the supervisor."""
        self._control.sendall(encode({"kind": kind, **fields}))

    def _turn(self) -> bool:
        """Handle what has happened; False when it is time to go."""
        ready = {key.fd for key, _ in self._selector.select()}
        for child in [child for child in self._children.values() if child.pipe in ready]:
            self._forward(child)
        if self._wake_read in ready:
            os.read(self._wake_read, 4096)
            self._collect()
        return self._control.fileno() not in ready or self._obey()

    def _obey(self) -> bool:
        data = self._control.recv(1 << 16)
        for command in self._commands.feed(data):
            if command["do"] == "quit":
                return False
            if command["do"] == "fork":
                self._fork([Assignment.from_json(fields) for fields in command["assignments"]])
            else:
                self._signal(signal.Signals(command["signal"]), command.get("ranks"))
        return bool(data)

    def _fork(self, assignments: Sequence[Assignment]) -> None:
        """Start a group. Its store's socket is bound here, so that no rank can be too early and no port is guessed."""
        with socket.create_server(("127.0.0.1", 0), backlog=1024) as listener:
            port = listener.getsockname()[1]
            for assignment in assignments:
                self._fork_one(replace(assignment, port=port), listener)
        self.send("forked", pids={child.rank: child.pid for child in self._children.values()})

    def _fork_one(self, assignment: Assignment, listener: socket.socket) -> None:
        read, write = os.pipe()
        pid = os.fork()
        if pid == 0:
            self._become(assignment, write, listener)
        os.close(write)
        os.set_blocking(read, False)
        _lead_group(pid)
        self._children[pid] = Child(assignment.rank, pid, read)
        self._selector.register(read, selectors.EVENT_READ)

    def _become(self, assignment: Assignment, write: int, listener: socket.socket) -> NoReturn:
        """The child's side of the fork: forget everything that is the zygote's, then work."""
        try:
            die_with_parent(self._pid)
            _lead_group(0)
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            signal.signal(signal.SIGHUP, signal.SIG_DFL)
            self._selector.close()
            self._control.close()
            for end in (self._wake_read, self._wake_write, *(child.pipe for child in self._children.values())):
                os.close(end)
            served = listener.detach() if assignment.rank == 0 else None
            listener.close()
            enter(assignment, write, served)
        finally:
            traceback.print_exc()
            os._exit(1)

    def _forward(self, child: Child) -> bool:
        """Pass on what a worker wrote so far; False at the end of its pipe."""
        try:
            data = os.read(child.pipe, 1 << 16)
        except BlockingIOError:
            return False
        if not data:
            self._selector.unregister(child.pipe)
        for line in child.lines.feed(data):
            self.send("told", rank=child.rank, line=line)
        return bool(data)

    def _collect(self) -> None:
        """Look for workers that ended or were stopped."""
        for child in list(self._children.values()):
            if os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                self._bury(child)
            elif halt := os.waitid(os.P_PID, child.pid, os.WSTOPPED | os.WNOHANG):
                self.send("halted", rank=child.rank, signal=halt.si_status)

    def _bury(self, child: Child) -> None:
        """Take leave of a dead worker: its last words, then its own children, then the process itself."""
        while child.pipe in self._selector.get_map() and self._forward(child):
            pass
        _kill_group(child.pid, signal.SIGKILL)  # while the dead process still holds its number
        _, status = os.waitpid(child.pid, 0)
        if child.pipe in self._selector.get_map():
            self._selector.unregister(child.pipe)
        os.close(child.pipe)
        del self._children[child.pid]
        self.send("gone", rank=child.rank, pid=child.pid, code=os.waitstatus_to_exitcode(status))

    def _signal(self, number: signal.Signals, ranks: Sequence[int] | None = None) -> None:
        """Signal workers; SIGKILL takes their children along."""
        for child in self._children.values():
            if ranks is None or child.rank in ranks:
                if number == signal.SIGKILL:
                    _kill_group(child.pid, number)
                else:
                    os.kill(child.pid, number)


def _lead_group(pid: int) -> None:
    """Make a process the leader of its own group; both sides of a fork do it, whoever comes first."""
    with contextlib.suppress(PermissionError, ProcessLookupError):
        os.setpgid(pid, pid)


def _kill_group(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)


def prepare(modules: Sequence[str], rehearsal: bool) -> dict[str, str]:
    """Import everything a worker may need; the modules that were left out, each with its reason.

    A module that cannot be imported is left to the worker, which reports the failure as a task's. A module that starts
    a thread cannot stay in a process that forks: this process then starts over without it.
    """
    from ..trainers import warm

    warm.preload()
    if rehearsal:
        warm.rehearse()
    if count_threads() > 1:
        raise ThreadStarted("torch")
    left_out: dict[str, str] = {}
    for module in modules:
        try:
            import_module(module)
        except Exception as error:
            left_out[module] = f"{type(error).__name__}: {error}"
        if count_threads() > 1:
            raise ThreadStarted(module)
    gc.collect()
    gc.freeze()  # collections in the workers then leave these pages shared
    return left_out


class ThreadStarted(Exception):
    """A module owns a thread, so that forking with it loaded could deadlock."""


def main(arguments: Sequence[str]) -> None:
    """Preload and serve. Arguments: the socket's file descriptor; {"parent", "paths", "modules", "rehearsal"}."""
    descriptor, config = arguments[0], json.loads(arguments[1])
    die_with_parent(config["parent"])
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # the supervisor decides
    sys.path[:0] = config["paths"]
    try:
        left_out = config.get("left_out", {}) | prepare(config["modules"], config["rehearsal"])
    except ThreadStarted as error:
        start_over(descriptor, config, without=str(error))
    with socket.socket(fileno=int(descriptor)) as control:
        zygote = Zygote(control)
        zygote.send("ready", left_out=left_out)
        die_with_parent(config["parent"], 0)  # from here the socket tells, whichever thread the parent used
        zygote.serve()


def start_over(descriptor: str, config: Mapping[str, Any], without: str) -> NoReturn:
    """Become a fresh interpreter that preloads one module less."""
    if without not in config["modules"]:
        raise RuntimeError("importing torch started a thread: OMP_NUM_THREADS was not 1 before this process started")
    modules = [module for module in config["modules"] if module != without]
    left_out = {**config.get("left_out", {}), without: "it starts a thread"}
    command = json.dumps({**config, "modules": modules, "left_out": left_out})
    os.execv(sys.executable, [sys.executable, "-m", "shardwright.cluster.zygote", descriptor, command])


if __name__ == "__main__":
    main(sys.argv[1:])
