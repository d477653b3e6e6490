"""What will a job need? Mesh, portions, work and memory, computed before any hardware is spent.

An entry of the catalog is planned without torch; one that does not count its own parameters is built on torch's meta
device. Nothing is written, and nothing is asked of the machine but how much memory it has left.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..jobs.check import Checked, blaming, check_job, check_place
from ..jobs.load import Loaded, load_job
from ..jobs.spec import JobSpec
from ..models.entry import Entry
from ..trainers.estimate import Portions, available_for_worker, count, estimate_micro_batch, rank_memory, stream_bytes
from ..trainers.memory import states
from ..trainers.memory_moments import FULL
from ..trainers.memory_pieces import Sizes, stages
from ..trainers.portions import BACKWARD, total_steps
from .code import folder_of, on_path
from .devices import choose_device, count_gpus
from .launch_plan import LaunchPlan


def plan(job: str | Path | Mapping[str, Any], *overrides: str, memory: int | None = None) -> LaunchPlan:
    """The plan of a job.

    Args:
        job: a job file, the bare name of a shipped one, or the same tree as a mapping.
        overrides: "key=value" words.
        memory: bytes that one worker may use, where this is not the machine that will run it.

    Raises:
        JobError: the job is wrong, or cannot run.
    """
    with on_path([folder_of(job)]):
        loaded = load_job(job, overrides)
        checked = check_job(loaded)
        check_place(loaded)
        return plan_job(loaded, checked, memory)


def plan_job(job: Loaded, checked: Checked, memory: int | None = None) -> LaunchPlan:
    """The plan of a job that was checked; arguments and errors as in `plan`."""
    spec, entry, config, layout = job.spec, checked.entry, checked.config, checked.layout
    tokens = spec.data.sequence_length if entry.data == "tokens" else 0
    portions = Portions(layout, spec.train, spec.optimizer, tokens)
    with blaming(job, "model.name"):
        counted = count(entry, config, layout.tensor)
    device = _device(spec)
    available = memory if memory is not None else _available(device, layout.world_size)
    settled = spec.train.micro_batch != "auto"
    size = spec.train.micro_batch if isinstance(spec.train.micro_batch, int) else 0
    micro_batch = size or estimate_micro_batch(entry, config, portions, available)
    rows = stream_bytes(entry, config, spec.train.global_batch)
    needed = rank_memory(entry, config, portions, micro_batch, counted.sizes)
    return LaunchPlan(
        job=job.name,
        model=entry.name,
        preset=spec.model.preset or next(iter(entry.presets), ""),
        parameters=counted.sizes.parameters,
        counted=counted.by,
        device=device,
        layout=layout,
        stages=tuple(stages(counted.sizes, layout.pipeline * layout.chunks)),
        global_batch=spec.train.global_batch,
        micro_batch=micro_batch,
        settled=settled,
        steps=_steps(spec, tokens),
        tokens=tokens,
        flops=_flops(entry, config, spec, tokens),
        memory=needed,
        complete=entry.activations is not None,
        available=available,
        snapshot=2 * (needed.snapshot + rows // layout.data) if spec.recovery.snapshot_every else 0,
        checkpoint=_checkpoint(counted.sizes, spec) + rows,
        kept=spec.checkpoint.keep,
    )


def _device(spec: JobSpec) -> str:
    """The device of the workers; that this machine has no GPU does not stop a plan for one that has."""
    wanted = spec.resources.device
    return wanted if wanted != "auto" else choose_device(wanted, spec.resources.workers, count_gpus())


def _available(device: str, workers: int) -> int | None:
    return available_for_worker(workers) if device == "cpu" else None


def _steps(spec: JobSpec, tokens: int) -> int | None:
    return None if spec.train.epochs is not None else total_steps(spec.train, 0, tokens or None)


def _flops(entry: Entry, config: Any, spec: JobSpec, tokens: int) -> float | None:
    return BACKWARD * spec.train.global_batch * entry.flops(config, tokens) if entry.flops else None


def _checkpoint(sizes: Sizes, spec: JobSpec) -> int:
    return (1 + states(spec.optimizer)) * sizes.parameters * FULL
