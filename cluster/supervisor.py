"""Who keeps a run alive? One loop that starts attempts, watches them, and decides with `policy` what follows.

The state has one writer, `tick`, and every state carries what it needs. Whatever ends an attempt, all its processes
are dead and reaped before the next one starts.
"""

import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from ..jobs.assignment import Assignment
from ..jobs.events import file_name
from ..jobs.run_folder import RunFolder
from ..jobs.spec import RecoveryOptions
from ..jobs.worker import DUMP_STACKS
from ..trainers.checkpoint.manifest import newest as newest_checkpoint
from ..trainers.checkpoint.manifest import read as read_manifest
from .call import listen_to_the_end
from .failure import Casualty, failure_block
from .group import Group, ZygoteDied
from .policy import GiveUp, Stand, decide, newest
from .record import Listener, Record
from .shared_memory import SharedMemory
from .watch import Watch

LAST_WORDS = 0.3  # seconds that the other ranks get to report after the first exception
TASK = "shardwright.jobs.train:train"  # returns "finished" or "stopped"
Start = Callable[[Sequence[Assignment]], Group]


@dataclass(frozen=True)
class Order:
    """What a run asks of its supervisor."""

    run: RunFolder
    world_size: int
    task: str = TASK
    payload: Mapping[str, Any] = field(default_factory=dict)
    recovery: RecoveryOptions = field(default_factory=RecoveryOptions)
    device: str = "cpu"
    threads: int = 1
    layout: str = ""  # in words, for the record
    resume: str = ""  # the command that continues the run


@dataclass(frozen=True)
class Outcome:
    """How a run ended."""

    state: str  # finished, stopped or failed
    step: int = 0
    report: str = ""  # the failure block; empty unless it failed
    results: Mapping[int, Any] = field(default_factory=dict)  # rank -> what its task returned


@dataclass(frozen=True)
class Starting:
    """An attempt is about to begin."""

    stand: Stand


@dataclass(frozen=True)
class Running:
    """An attempt is under way."""

    group: Group
    watch: Watch
    condemned: float | None = None  # the clock at which the first exception's last words end


@dataclass(frozen=True)
class Stopping:
    """The ranks were asked to stop and have until then; what they do not do by then is not waited for."""

    group: Group
    watch: Watch
    until: float


@dataclass(frozen=True)
class Ended:
    """Nothing lives any more."""

    outcome: Outcome


State = Starting | Running | Stopping | Ended


class Supervisor:
    """Runs one order to its end. `start` forks a group; `listeners` hear every event, the supervisor's own too."""

    def __init__(self, order: Order, start: Start, listeners: Sequence[Listener] = ()) -> None:
        self._order = order
        self._start = start
        self._record = Record(order.run, listeners)
        self._failures: list[list[Casualty]] = []
        self._grace: float | None = None
        self._memory = SharedMemory() if order.recovery.snapshot_every else None
        self.state: State = Starting(newest(None, self._checkpoint()))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if isinstance(self.state, Running | Stopping):
            self.state.group.kill()
        self._record.close()
        if self._memory is not None:
            self._memory.close()

    @property
    def stopping(self) -> bool:
        """Whether it was asked to stop."""
        return self._grace is not None

    def stop(self, grace: float) -> None:
        """Ask the ranks to save and leave within `grace` seconds; safe in a signal handler, a second call hurries."""
        self._grace = grace if self._grace is None else 0.0

    def run(self) -> Outcome:
        """Tick until the end."""
        while not isinstance(self.state, Ended):
            self.tick(0.1)
        return self.state.outcome

    def tick(self, timeout: float) -> None:
        """Handle one message, or what is due after `timeout` seconds without one."""
        match self.state:
            case Starting():
                self.state = self._begin(self.state)
            case Running():
                self.state = self._attend(self.state, timeout)
            case Stopping():
                self.state = self._see_off(self.state, timeout)

    def _begin(self, state: Starting) -> State:
        """Fork an attempt, unless a stop came first."""
        if self._grace is not None:
            return self._end(Outcome("stopped", state.stand.step))
        self._record.next_attempt()
        order, attempt = self._order, self._record.attempt
        if self._failures:
            self._record.tell("restart", attempt=attempt, from_step=state.stand.step, source=state.stand.source)
        self._record.tell("attempt", attempt=attempt, world_size=order.world_size, layout=order.layout)
        watch = Watch(range(order.world_size), time.monotonic(), lambda rank: str(order.run.log(attempt, rank)))
        try:
            return Running(self._start([self._assignment(rank) for rank in range(order.world_size)]), watch)
        except ZygoteDied as error:
            watch.blame(0, "lost", str(error))
            return self._give_up("no worker could be started", watch)

    def _assignment(self, rank: int) -> Assignment:
        order, run, attempt = self._order, self._order.run, self._record.attempt
        memory = self._memory.of(rank) if self._memory is not None else None
        return Assignment(
            task=order.task,
            rank=rank,
            world_size=order.world_size,
            payload=order.payload,
            local_rank=rank,
            attempt=attempt,
            device=order.device,
            threads=order.threads,
            log=str(run.log(attempt, rank)),
            events=str(run.events / file_name(attempt, rank)),
            snapshots=str(memory or ""),
        )

    def _attend(self, state: Running, timeout: float) -> State:
        """Hear one message; act on a failure, a silence or a wish to stop."""
        group, watch = state.group, state.watch
        self._hear(group, watch, timeout)
        now = time.monotonic()
        if watch.finished and not group.alive:
            return self._end(Outcome("finished", watch.step, results=watch.results))
        if silent := watch.silent(now, self._order.recovery.heartbeat):
            self._blame_silent(group, watch, silent)
        if watch.conclusive or (state.condemned is not None and now > state.condemned):
            return self._recover(group, watch)
        if self._grace is not None:
            group.signal(signal.SIGTERM)
            return Stopping(group, watch, now + self._grace)
        condemned = now + LAST_WORDS if watch.casualties and state.condemned is None else state.condemned
        return Running(group, watch, condemned)

    def _see_off(self, state: Stopping, timeout: float) -> State:
        """Wait for the ranks to leave; kill what is left when the time is over, or when one of them died."""
        group, watch = state.group, state.watch
        self._hear(group, watch, timeout)
        until = min(state.until, time.monotonic()) if self._grace == 0.0 else state.until
        if group.alive and not watch.conclusive and time.monotonic() < until:
            return Stopping(group, watch, until)
        if group.alive:
            group.kill()
        complete = watch.finished and "stopped" not in watch.results.values()  # it was done before it heard
        return self._end(Outcome("finished" if complete else "stopped", watch.step, results=watch.results))

    def _hear(self, group: Group, watch: Watch, timeout: float) -> None:
        """Take in one message; the zygote's death is the death of all."""
        try:
            message = group.next(timeout)
        except ZygoteDied as error:
            for rank in sorted(group.alive):
                watch.blame(rank, "lost", str(error))
            group.mourn()
            return
        if message is not None:
            watch.note(message, time.monotonic())
            if message.kind not in ("result", "halted", "gone"):
                self._record.hear(message.rank, message.fields)

    def _blame_silent(self, group: Group, watch: Watch, silent: Sequence[int]) -> None:
        group.signal(DUMP_STACKS, silent)
        time.sleep(LAST_WORDS)  # a signal has no answer; the stacks are in the logs by then
        for rank in silent:
            watch.blame(rank, "hung", f"no sign of life for {self._order.recovery.heartbeat:g} s or more")

    def _recover(self, group: Group, watch: Watch) -> State:
        """Bury an attempt that failed and decide what follows."""
        if group.alive:
            listen_to_the_end(group, watch)
        for casualty in watch.casualties:
            self._record.tell("death", **_death(casualty, group))
        self._failures.append(watch.casualties)
        if self._grace is not None:
            return self._end(Outcome("stopped", watch.step))
        snapshot = self._memory.newest_common(self._order.world_size) if self._memory is not None else None
        decision = decide(self._failures, snapshot, self._checkpoint(), self._order.recovery)
        if isinstance(decision, GiveUp):
            return self._give_up(decision.reason, watch)
        return Starting(decision.stand)

    def _give_up(self, reason: str, watch: Watch) -> Ended:
        title = f"run {self._order.run.name} failed in attempt {self._record.attempt}: {reason}"
        report = failure_block(title, watch.casualties, self._order.resume)
        self._record.tell("give_up", reason=reason, report=report)
        return Ended(Outcome("failed", watch.step, report))

    def _end(self, outcome: Outcome) -> Ended:
        if not self._record.begun:  # stopped before the first attempt
            self._record.next_attempt()
        self._record.tell(outcome.state, step=outcome.step)
        return Ended(outcome)

    def _checkpoint(self) -> int | None:
        path = newest_checkpoint(self._order.run.checkpoints)
        return read_manifest(path).step if path is not None else None


def _death(casualty: Casualty, group: Group) -> dict[str, Any]:
    return {
        "rank": casualty.rank,
        "pid": group.pids.get(casualty.rank),
        "cause": casualty.sentence,
        "phase": casualty.phase,
        "step": casualty.step,
        "victim": casualty.victim,
    }
