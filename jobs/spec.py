"""What is asked? The value tree of a job file: frozen, typed, without torch; it composes the floors' option types."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..trainers.options import (
    CheckpointOptions,
    DataOptions,
    EvalOptions,
    OptimizerOptions,
    ParallelOptions,
    ScheduleOptions,
    TrackOptions,
    TrainOptions,
    option,
)


@dataclass(frozen=True)
class RunOptions:
    """[run]: the name and the place of what is recorded."""

    name: str = option("", "name of the run; empty: the job file's name")
    folder: str = option("runs", "folder that holds the run folders")
    seed: int = option(0, "of the weights, the order of the data and every draw", minimum=0)


@dataclass(frozen=True)
class ModelOptions:
    """[model]: what is trained."""

    name: str = option("gpt2", "an entry of `shardwright models`, or package.module:object of your own")
    preset: str = option("", "named sizes of the entry; empty: the first")
    config: dict[str, Any] = field(
        default_factory=dict, metadata={"help": "sizes that differ from the preset's, typed by the entry"}
    )


@dataclass(frozen=True)
class ResourceOptions:
    """[resources]: the machines that are asked for."""

    workers: int = option(1, "worker processes", minimum=1)
    device: str = option(
        "auto", "auto: cuda where this machine has a GPU for each worker", choices=("auto", "cpu", "cuda")
    )
    threads: int = option(1, "CPU threads of one worker (OMP_NUM_THREADS)", minimum=1)


@dataclass(frozen=True)
class RecoveryOptions:
    """[recovery]: what happens when a worker dies or hangs."""

    max_restarts: int = option(3, "restarts of one run before it is given up", minimum=0)
    snapshot_every: int = option(1, "steps between two snapshots in shared memory; 0: none", minimum=0)
    heartbeat: float = option(
        120.0, "seconds without a sign of life from a worker before it counts as hung", minimum=1.0
    )


@dataclass(frozen=True)
class JobSpec:
    """A whole job. The launchers' own sections are given by the launchers, where they exist."""

    run: RunOptions = field(default_factory=RunOptions)
    model: ModelOptions = field(default_factory=ModelOptions)
    data: DataOptions = field(default_factory=DataOptions)
    train: TrainOptions = field(default_factory=TrainOptions)
    optimizer: OptimizerOptions = field(default_factory=OptimizerOptions)
    schedule: ScheduleOptions = field(default_factory=ScheduleOptions)
    parallel: ParallelOptions = field(default_factory=ParallelOptions)
    checkpoint: CheckpointOptions = field(default_factory=CheckpointOptions)
    eval: EvalOptions = field(default_factory=EvalOptions)
    recovery: RecoveryOptions = field(default_factory=RecoveryOptions)
    resources: ResourceOptions = field(default_factory=ResourceOptions)
    track: TrackOptions = field(default_factory=TrackOptions)
    launchers: Mapping[str, Any] = field(default_factory=dict)  # section name -> value of the launcher's own type


class JobError(ValueError):
    """What a person asked for cannot be done: one readable message. The command line turns it into exit code 2."""
