"""What does a worker of a run do? It reads the run's own record and hands its values to the trainer."""

import json
from pathlib import Path

from ..trainers.data.dataset import Data, open_data
from ..trainers.loop import train as train_loop
from ..trainers.session import Session, Training
from ..trainers.world import Worker
from .check import Checked, check_job
from .load import Loaded, load_resolved
from .run_folder import RunFolder, publish


def train(worker: Worker, run: str) -> str:
    """Train one rank of a run to its end, or until it is asked to stop; "finished" or "stopped"."""
    folder = RunFolder(Path(run))
    job = load_resolved(folder.spec)
    checked = check_job(job)
    worker.tell("phase", name="data")
    data = open_data(job.spec.data, checked.entry.data)
    record(worker, data, folder)
    session = Session(worker, training(job, checked, data, folder))
    return train_loop(session)


def record(worker: Worker, data: Data, folder: RunFolder) -> None:
    """Rank 0 tells what is known of the data, and writes every source file with its hash beside the job."""
    if worker.rank:
        return
    facts = {
        "identity": data.identity,
        "summary": dict(data.summary),
        "vocab_size": data.vocab_size,
        "tokens_per_sample": data.tokens_per_sample,
        "bytes_per_token": data.bytes_per_token,
        "unigram_entropy": data.unigram_entropy,
    }
    worker.tell("data", **facts)
    publish(folder.path / "data.json", json.dumps({**facts, "files": [dict(file) for file in data.files]}, indent=1))


def training(job: Loaded, checked: Checked, data: Data, folder: RunFolder) -> Training:
    """The part of a job that the trainer reads."""
    spec = job.spec
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
        first_guess=spec.train.global_batch,
    )
