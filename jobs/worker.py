"""How does one rank live? In through `enter`, out through `os._exit`, whatever the task did in between.

`enter` never returns. Everything that the outside learns goes through the channel: the task's events, then exactly one
"result" or "failure". Leaving flushes and exits hard, because a process that used gloo may abort in its own teardown.
"""

import contextlib
import faulthandler
import importlib.util
import os
import select
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn

from ..models.entry import load_object
from ..trainers.sink import Sink, silent
from .assignment import Assignment
from .events import EventFile, encode

if TYPE_CHECKING:
    from torch._C._distributed_c10d import TCPStore

DUMP_STACKS = signal.SIGUSR2  # writes the stack of every thread into the log
REASONS = {signal.SIGTERM: "stop", signal.SIGUSR1: "preempted"}


class Channel:
    """One JSON line per event into a pipe; an event that does not fit a full pipe is dropped, an outcome never."""

    def __init__(self, pipe: int) -> None:
        os.set_blocking(pipe, False)
        self._pipe = pipe
        self._lock = threading.Lock()

    def tell(self, kind: str, /, **fields: Any) -> None:
        """Report an event without ever blocking."""
        line = _line(kind, fields)
        if len(line) > select.PIPE_BUF:  # longer lines are not written whole or not at all
            return
        with self._lock, contextlib.suppress(BlockingIOError, BrokenPipeError):
            os.write(self._pipe, line)

    def report(self, kind: str, /, **fields: Any) -> None:
        """Report an outcome, waiting for the reader where the pipe is full."""
        rest = _line(kind, fields)
        with self._lock, contextlib.suppress(BrokenPipeError):
            while rest:
                select.select([], [self._pipe], [])
                with contextlib.suppress(BlockingIOError):
                    rest = rest[os.write(self._pipe, rest) :]


def _line(kind: str, fields: dict[str, Any]) -> bytes:
    return encode({"t": time.time(), "kind": kind, **fields}).encode()


class Progress:
    """Where a rank is: the last phase and step that went through its sink."""

    def __init__(self, *sinks: Sink) -> None:
        self.phase = "connect"
        self.step = 0
        self._sinks = sinks

    def tell(self, kind: str, /, **fields: Any) -> None:
        """Note the phase and the step, and pass the event on to every sink."""
        if kind == "phase":
            self.phase = fields["name"]
        elif kind in ("step", "resume"):
            self.step = fields["step"]
        for sink in self._sinks:
            sink(kind, **fields)


class StopSignal:
    """Why this process was asked to stop; a signal handler only notes it, the loop reads it."""

    def __init__(self) -> None:
        self._reason = ""

    def __call__(self) -> str:
        return self._reason

    def listen(self) -> None:
        """Take over the signals; SIGINT is the launcher's business."""
        for number in REASONS:
            signal.signal(number, self._note)
        signal.signal(signal.SIGINT, signal.SIG_IGN)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._reason = self._reason or REASONS[signal.Signals(number)]


def enter(assignment: Assignment, pipe: int, listener: int | None) -> NoReturn:
    """Run one rank's task to its end and leave the process.

    Args:
        assignment: what to do.
        pipe: file descriptor for events and the outcome.
        listener: rank 0's listening socket, bound to the assignment's port, which becomes the rendezvous store.
    """
    code = 1
    try:
        if assignment.log:
            _redirect(Path(assignment.log))
        faulthandler.enable()
        faulthandler.register(DUMP_STACKS, all_threads=True)
        stop = StopSignal()
        stop.listen()
        channel = Channel(pipe)
        record = EventFile(Path(assignment.events)) if assignment.events else silent
        code = _work(assignment, listener, stop, channel, record)
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _work(assignment: Assignment, listener: int | None, stop: StopSignal, channel: Channel, record: Sink) -> int:
    """Connect, run the task, report; the exit status."""
    progress = Progress(channel.tell, record)
    try:
        store = _connect(assignment, listener)
        progress.tell("start", **_place(assignment))
        progress.tell("phase", name="load")
        task = load_task(assignment.task)
        progress.tell("phase", name="task")
        value = task(_worker(assignment, stop, progress), **assignment.payload)
        channel.report("result", value=value)
    except BaseException as error:
        failure = describe(error, assignment.rank, progress)
        sys.stderr.write(failure["traceback"])
        channel.report("failure", **failure)
        record("failure", **failure)
        return 1
    _leave_together(store, assignment)
    return 0


def _place(assignment: Assignment) -> dict[str, Any]:
    """The fields of a "start" event."""
    import torch

    return {
        "attempt": assignment.attempt,
        "rank": assignment.rank,
        "world_size": assignment.world_size,
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "device": assignment.device,
        "torch": torch.__version__,
    }


def describe(error: BaseException, rank: int, progress: Progress) -> dict[str, Any]:
    """The fields of a "failure" event."""
    return {
        "rank": rank,
        "host": socket.gethostname(),
        "phase": progress.phase,
        "step": progress.step,
        "type": type(error).__name__,
        "message": str(error),
        "traceback": "".join(traceback.format_exception(error)),
    }


def load_task(name: str) -> Callable[..., Any]:
    """The function that "package.module:function" or "/path/file.py:function" names.

    Raises:
        ValueError: the text is not of that form, or there is no such file or function.
    """
    place, _, function = name.rpartition(":")
    if not place.endswith(".py"):
        task: Callable[..., Any] = load_object(name)
        return task
    path = Path(place)
    alias = f"shardwright_task_{path.stem}"
    spec = importlib.util.spec_from_file_location(alias, path)
    if spec is None or spec.loader is None or not path.is_file():
        raise ValueError(f"task {name!r}: there is no file {place}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[alias] = module
    spec.loader.exec_module(module)
    found: Callable[..., Any] | None = getattr(module, function, None)
    if found is None:
        raise ValueError(f"task {name!r}: {place} has no function {function!r}")
    return found


def _redirect(log: Path) -> None:
    """Let this process and whatever it starts write into a log file."""
    log.parent.mkdir(parents=True, exist_ok=True)
    target = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for stream in (1, 2):
        os.dup2(target, stream)
    os.close(target)
    for output in (sys.stdout, sys.stderr):
        output.reconfigure(line_buffering=True)  # type: ignore[union-attr]


def _connect(assignment: Assignment, listener: int | None) -> "TCPStore":
    """Join the process group; rank 0 serves the store on the socket that was bound before it was born."""
    import torch
    import torch.distributed as dist
    from torch._C._distributed_c10d import TCPStore

    torch.set_num_threads(assignment.threads)
    timeout = timedelta(seconds=assignment.timeout)
    store = TCPStore(
        assignment.host,
        assignment.port,
        assignment.world_size,
        is_master=listener is not None,
        timeout=timeout,
        wait_for_workers=False,
        master_listen_fd=listener,
    )
    backend = "gloo"
    if assignment.device == "cuda":
        torch.cuda.set_device(assignment.local_rank)
        backend = "cpu:gloo,cuda:nccl"
    dist.init_process_group(
        backend, store=store, rank=assignment.rank, world_size=assignment.world_size, timeout=timeout
    )
    return store


def _worker(assignment: Assignment, stop: StopSignal, progress: Progress) -> Any:
    import torch

    from ..trainers.world import Worker

    cuda = assignment.device == "cuda"
    return Worker(
        rank=assignment.rank,
        world_size=assignment.world_size,
        local_rank=assignment.local_rank,
        attempt=assignment.attempt,
        device=torch.device("cuda", assignment.local_rank) if cuda else torch.device("cpu"),
        tell=progress.tell,
        stop=stop,
        snapshots=Path(assignment.snapshots) if assignment.snapshots else None,
    )


def _leave_together(store: "TCPStore", assignment: Assignment) -> None:
    """Rank 0 serves the store, so it stays until every other rank is done with it."""
    if store.add("left", 1) == assignment.world_size:
        store.set("all left", "1")
    if assignment.rank == 0:
        store.wait(["all left"])
