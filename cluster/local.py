"""How does a job run on this machine? A supervisor without torch, a warm zygote, and the workers forked from it.

`python -m shardwright.cluster.local RUN [PID]` is the supervisor of a run; with the process id of its parent, it stops
the run when the parent ends.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType

from ..jobs.assignment import Assignment
from ..jobs.events import Event
from ..jobs.load import Loaded, load_resolved
from ..jobs.run_folder import RunError, RunFolder, create, publish
from ..jobs.show import to_toml
from ..jobs.spec import JobError, JobSpec
from ..jobs.tracking import TensorBoard
from ..jobs.tracking import installed as tensorboard_installed
from ..trainers.layout import resolve
from .devices import choose_device, count_gpus
from .failure import name_ranks
from .group import Group
from .handle import GRACE, HURRY, SUPERVISOR_LOG, Handle
from .launcher import RUN, Process, Request
from .pool import ZYGOTE_ENVIRONMENT, Pool
from .processes import die_with_parent
from .record import Listener
from .supervisor import TASK, Order, Outcome, Supervisor

PRELOAD = ("shardwright.jobs.train",)
EXIT_CODES = {"finished": 0, "failed": 1, "stopped": 130}


class LocalLauncher:
    """Starts the workers of a job on this machine."""

    options = None

    def render(self, job: Loaded, run: RunFolder | None, code: Mapping[str, Path]) -> Request:
        """What submit would do; nothing is touched."""
        spec = job.spec
        device = choose_device(spec.resources.device, spec.resources.workers, count_gpus())
        ranks = name_ranks(range(spec.resources.workers))
        workers = f"{ranks}: forked by the zygote, on {device}, OMP threads {spec.resources.threads}, task {TASK}"
        return Request(
            job=spec.run.name,
            spec=to_toml(spec, job.origins),
            root=Path(spec.run.folder).expanduser(),
            run=run.path if run else None,
            code=code,
            processes=(
                Process("supervisor", (sys.executable, "-m", __spec__.name, str(run.path) if run else RUN)),
                Process("zygote", (sys.executable, "-m", "shardwright.cluster.zygote"), ZYGOTE_ENVIRONMENT, workers),
            ),
        )

    def submit(self, request: Request) -> Handle:
        """Start the run in the background."""
        run = claim(request)
        command = [word if word != RUN else str(run.path) for word in request.processes[0].command]
        command += [str(os.getpid())] if request.attached else []
        with (run.logs / SUPERVISOR_LOG).open("wb") as log:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        return Handle(run, process)


def claim(request: Request) -> RunFolder:
    """Make the run folder that a request asks for, or join the one it continues."""
    if request.run is not None:
        joined = RunFolder(request.run)
        if joined.spec.read_text() != request.spec:
            publish(joined.spec, request.spec)
        return joined
    run = create(request.root.absolute(), request.job, request.spec, plan=request.plan)
    if request.code:
        run.add_code(request.code)
    return run


def supervise(run: RunFolder, listeners: Sequence[Listener] = ()) -> Outcome:
    """Run a run to its end in this process; signals to stop are heard.

    Raises:
        RunError: another job is on the run.
        JobError: its job cannot run on this machine.
    """
    spec = load_resolved(run.spec).spec
    order = order_of(run, spec)
    with ExitStack() as stack:
        stack.enter_context(run.lock())
        workers = stack.enter_context(Workers(preload(spec), own_code(run), order.device))
        supervisor = stack.enter_context(Supervisor(order, workers.start, [*listeners, *_trackers(run, spec, stack)]))
        stack.enter_context(stop_signals(supervisor))
        while not supervisor.stopping and not workers.pool.ready(0.1):
            pass
        return supervisor.run()


def order_of(run: RunFolder, spec: JobSpec) -> Order:
    """What a run asks of its supervisor."""
    resources = spec.resources
    return Order(
        run=run,
        world_size=resources.workers,
        payload={"run": str(run.path.absolute())},
        recovery=spec.recovery,
        device=choose_device(resources.device, resources.workers, count_gpus()),
        threads=resources.threads,
        layout=describe_layout(spec),
        resume=f"shardwright resume {_shortest(run.path)}",
    )


def describe_layout(spec: JobSpec) -> str:
    """The mesh in words."""
    layout = resolve(spec.parallel, spec.resources.workers)
    return f"{layout.factors}, zero {layout.zero}"


def own_code(run: RunFolder) -> list[str]:
    """Where the user's modules are imported from: the copy that was made when the run began."""
    copies = [path for path in run.code.iterdir() if not path.name.startswith(".")]
    return [str(max(copies, key=lambda path: path.stat().st_mtime).absolute())] if copies else []


def preload(spec: JobSpec) -> list[str]:
    """Modules that the workers of a job use."""
    named = (spec.model.name, spec.data.name)
    return [*PRELOAD, *(name.partition(":")[0] for name in named if ":" in name)]


class Workers:
    """A pool that is made anew when its zygote dies."""

    def __init__(self, modules: Sequence[str], paths: Sequence[str], device: str) -> None:
        self._modules, self._paths, self._device = modules, paths, device
        self.pool = self._new()

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, *error: object) -> None:
        self.pool.close()

    def start(self, assignments: Sequence[Assignment]) -> Group:
        """Fork a group."""
        if not self.pool.alive:
            self.pool.close()
            self.pool = self._new()
        return self.pool.start(assignments)

    def _new(self) -> Pool:
        return Pool(self._modules, paths=self._paths, device=self._device)


@contextmanager
def stop_signals(supervisor: Supervisor) -> Iterator[None]:
    """Let Ctrl-C, SIGTERM and a closed terminal stop the run."""
    graces = {signal.SIGINT: HURRY, signal.SIGHUP: HURRY, signal.SIGTERM: GRACE}

    def note(number: int, frame: FrameType | None) -> None:
        supervisor.stop(graces[signal.Signals(number)])

    before = {number: signal.signal(number, note) for number in graces}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _trackers(run: RunFolder, spec: JobSpec, stack: ExitStack) -> list[Listener]:
    if not (spec.track.tensorboard and tensorboard_installed()):
        return []
    board = TensorBoard(run.tensorboard)
    stack.callback(board.close)
    return [board.update]


def _shortest(path: Path) -> Path:
    path = path.absolute()
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def print_event(event: Event) -> None:
    """One line of the background supervisor's log."""
    if event.rank is None:
        words = " ".join(f"{name}={value}" for name, value in event.fields.items() if value != "")
        print(f"{event.kind} {words}", flush=True)


def main(arguments: Sequence[str]) -> int:
    """Supervise a run until its end; the exit status tells how it ended, 2 that it could not begin."""
    try:
        if len(arguments) > 1:
            die_with_parent(int(arguments[1]), signal.SIGTERM)
        return EXIT_CODES[supervise(RunFolder(Path(arguments[0])), [print_event]).state]
    except (JobError, RunError) as error:
        print(error, file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
