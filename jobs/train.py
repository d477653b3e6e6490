"""What does a worker of a run do? It reads the run's own record and hands its values to the trainer."""

from pathlib import Path

import torch.distributed as dist

from ..trainers.checkpoint.manifest import newest
from ..trainers.data.dataset import Data
from ..trainers.estimate import Portions, estimate_micro_batch
from ..trainers.loop import train as train_loop
from ..trainers.measure import worker_bytes
from ..trainers.session import Session, Training
from ..trainers.world import Worker
from .check import Checked, check_job
from .data import facts, open_run_data, record
from .generate import continue_text
from .load import Loaded, load_resolved
from .run_folder import RunFolder

PROMPT, SAMPLE = 32, 160  # tokens of a run's own sample: held-out text that it begins with, and what it adds


def train(worker: Worker, run: str) -> str:
    """Train one rank of a run to its end, or until it is asked to stop; "finished" or "stopped"."""
    folder = RunFolder(Path(run))
    job = load_resolved(folder.spec)
    checked = check_job(job)
    worker.tell("phase", name="data")
    data = open_run_data(folder, job.spec.data, checked.entry.data, job.spec.train.global_batch)
    if worker.rank == 0:
        worker.tell("data", **facts(data))
        record(folder, job.spec.data, data)
    available = worker_bytes(worker.device, worker.world_size)
    session = Session(worker, training(job, checked, data, folder, available))
    reason = train_loop(session)
    if reason == "finished" and checked.entry.continues and data.held_out is not None and data.tokenizer is not None:
        dist.destroy_process_group()  # every rank is done; a checkpoint is read by one process alone
        if worker.rank == 0:
            sample(worker, checked, data, folder)
    return reason


def sample(worker: Worker, checked: Checked, data: Data, folder: RunFolder) -> None:
    """Tell what the trained weights make of the beginning of a held-out sample."""
    worker.tell("phase", name="sample")
    checkpoint = newest(folder.checkpoints)
    assert checkpoint is not None and data.held_out is not None
    prompt = data.decode(data.held_out[0]["inputs"][:PROMPT]) or ""
    text = continue_text(checked, data, checkpoint, prompt, SAMPLE)
    worker.tell("sample", prompt=prompt, text=text.removeprefix(prompt))


def training(job: Loaded, checked: Checked, data: Data, folder: RunFolder, available: int | None) -> Training:
    """The part of a job that the trainer reads; available: bytes that this worker may use."""
    spec = job.spec
    portions = Portions(checked.layout, spec.train, spec.optimizer, data.tokens_per_sample or 0)
    return Training(
        entry=checked.entry,
        config=checked.config,
        layout=checked.layout,
        data=data,
        train=spec.train,
        optimizer=spec.optimizer,
        schedule=spec.schedule,
        checkpoint=spec.checkpoint,
        eval=spec.eval,
        seed=spec.run.seed,
        snapshot_every=spec.recovery.snapshot_every,
        checkpoints=folder.checkpoints,
        traces=folder.path / "trace",
        first_guess=estimate_micro_batch(checked.entry, checked.config, portions, available),
    )
