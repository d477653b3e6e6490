"""A run goes on from where it was: bit for bit under the same layout, to 1e-5 under another."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from shardwright.cluster.call import RankFailure
from shardwright.models.catalog import configure, find
from shardwright.trainers.data.dataset import Data
from shardwright.trainers.layout import parse_strategy
from shardwright.trainers.loop import train
from shardwright.trainers.options import CheckpointOptions, EvalOptions, OptimizerOptions, ScheduleOptions, TrainOptions
from shardwright.trainers.session import Session, Training
from shardwright.trainers.world import Worker

CONFIG = {"vocab_size": 64, "context": 16, "width": 32, "layers": 2, "dropout": 0.1}
STEPS = 6


class Tokens:
    """Samples of random tokens, the same in every process."""

    def __init__(self, size: int, seed: int) -> None:
        self.rows = np.random.default_rng(seed).integers(0, 64, (size, 17))

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"inputs": self.rows[index, :-1], "targets": self.rows[index, 1:]}


class Killed(Exception):
    """Stands for a death between a step and its snapshot, before any checkpoint."""


def trained(
    worker: Worker, strategy: str, folder: str, stop_after: int = 0, killed_after: int = 0, **options: Any
) -> dict[str, Any]:
    """Train, or go on; the events and a hash-like sum of the weights."""
    events: list[tuple[str, dict[str, Any]]] = []
    steps = [0]

    def tell(kind: str, /, **fields: Any) -> None:
        events.append((kind, fields))
        steps[0] = fields["step"] if kind == "step" else steps[0]
        if killed_after and steps[0] == killed_after:
            raise Killed

    def stop() -> str:
        return "stop" if stop_after and steps[0] + 1 >= stop_after and worker.rank == 0 else ""

    Path(folder).mkdir(parents=True, exist_ok=True)
    snapshots = Path(folder) / f"snapshots-{worker.rank}" if options.pop("snapshots", False) else None
    if snapshots:
        snapshots.mkdir(exist_ok=True)
    entry = find("gpt2")
    asked = Training(
        entry=entry,
        config=configure(entry, "tiny", CONFIG),
        layout=parse_strategy(strategy),
        data=Data(Tokens(50, 0), Tokens(20, 1), "test", {}, tokens_per_sample=16),
        train=TrainOptions(steps=STEPS, **{"global_batch": 8, "micro_batch": 2, **options}),
        optimizer=OptimizerOptions(lr=1e-2),
        schedule=ScheduleOptions(warmup=2),
        checkpoint=CheckpointOptions(),
        eval=EvalOptions(batches=1),
        seed=3,
        snapshot_every=1,
        checkpoints=Path(folder) / "checkpoints",
        traces=Path(folder) / "trace",
        first_guess=4,
    )
    session = Session(replace(worker, tell=tell, stop=stop, snapshots=snapshots), asked)
    reason = train(session)
    found = [fields for kind, fields in events if kind == "step"]
    return {
        "reason": reason,
        "steps": [fields["step"] for fields in found],
        "losses": [fields["loss"] for fields in found],
        "resumed": next(fields for kind, fields in events if kind == "resume"),
        "eval": [fields["loss"] for kind, fields in events if kind == "eval"],
        "micro_batch": session.micro_batch,
        "warnings": [fields["reason"] for kind, fields in events if kind == "no_snapshots"],
    }


def needs(strategy: str) -> None:
    """Skip where the strategy's engine is not installed."""
    pytest.importorskip(parse_strategy(strategy).engine, reason="the engine is not installed")


ENGINES = ["deepspeed_zero1", "deepspeed_zero3", "deepspeed_pipeline2", "fairscale_oss", "horovod"]


@pytest.mark.parametrize("strategy", ["ddp", "zero1", "zero3", "tensor2", "pipeline2", *ENGINES])
def test_a_stopped_run_resumes_bit_for_bit(ranks: Callable[..., list[Any]], tmp_path: Path, strategy: str) -> None:
    needs(strategy)
    size = parse_strategy(strategy).world_size
    unfailed = ranks(trained, size, strategy=strategy, folder=str(tmp_path / "twin"))[0]
    assert unfailed["steps"] == [1, 2, 3, 4, 5, 6]
    first = ranks(trained, size, strategy=strategy, folder=str(tmp_path / "run"), stop_after=3)[0]
    assert (first["reason"], first["steps"]) == ("stopped", [1, 2, 3])
    second = ranks(trained, size, strategy=strategy, folder=str(tmp_path / "run"))[0]
    assert second["resumed"]["source"] == "checkpoint"
    assert second["steps"] == [4, 5, 6]
    assert first["losses"] + second["losses"] == unfailed["losses"]
    assert second["eval"] == unfailed["eval"]


def test_a_run_resumes_under_another_layout(ranks: Callable[..., list[Any]], tmp_path: Path) -> None:
    folder = str(tmp_path)
    unfailed = ranks(trained, 1, strategy="tensor1", folder=str(tmp_path / "twin"))[0]
    first = ranks(trained, 2, strategy="zero3", folder=folder, stop_after=2)[0]
    second = ranks(trained, 4, strategy="tensor2_pipeline2", folder=folder, stop_after=4)[0]
    third = ranks(trained, 1, strategy="tensor1", folder=folder)[0]
    assert [*first["steps"], *second["steps"], *third["steps"]] == [1, 2, 3, 4, 5, 6]
    losses = first["losses"] + second["losses"] + third["losses"]
    assert losses == pytest.approx(unfailed["losses"], abs=1e-5)


@pytest.mark.parametrize("strategy", ["zero2", "deepspeed_zero2"])
def test_a_snapshot_is_newer_than_the_checkpoint(
    ranks: Callable[..., list[Any]], tmp_path: Path, strategy: str
) -> None:
    needs(strategy)
    unfailed = ranks(trained, 2, strategy=strategy, folder=str(tmp_path / "twin"))[0]
    with pytest.raises(RankFailure, match="Killed"):
        ranks(trained, 2, strategy=strategy, folder=str(tmp_path / "run"), snapshots=True, killed_after=4)
    second = ranks(trained, 2, strategy=strategy, folder=str(tmp_path / "run"), snapshots=True)[0]
    assert second["resumed"]["source"] == "snapshot"
    assert second["steps"] == [4, 5, 6]
    assert second["losses"] == unfailed["losses"][3:]


@pytest.mark.parametrize("strategy", ["ddp", "deepspeed_zero2", "fairscale_oss"])
def test_a_micro_batch_is_settled_and_kept(ranks: Callable[..., list[Any]], tmp_path: Path, strategy: str) -> None:
    needs(strategy)
    given = ranks(trained, 2, strategy=strategy, folder=str(tmp_path / "given"), micro_batch=4)[0]
    first = ranks(trained, 2, strategy=strategy, folder=str(tmp_path), stop_after=2, micro_batch="auto")[0]
    assert first["micro_batch"] == 4  # the guess, which divides a rank's 4 samples
    second = ranks(trained, 2, strategy=strategy, folder=str(tmp_path), micro_batch="auto")[0]
    assert second["micro_batch"] == 4
    assert first["losses"] + second["losses"] == given["losses"]  # the trial left nothing behind


@pytest.mark.parametrize("strategy", ["deepspeed_zero3", "fairscale_oss", "horovod"])
def test_recomputation_under_an_engine(ranks: Callable[..., list[Any]], tmp_path: Path, strategy: str) -> None:
    needs(strategy)
    plain = ranks(trained, 2, strategy=strategy, folder=str(tmp_path / "a"))[0]
    assert (
        ranks(trained, 2, strategy=strategy, folder=str(tmp_path / "b"), recompute="full")[0]["losses"]
        == (plain["losses"])
    )


@pytest.mark.parametrize("strategy", ["ddp", "zero3", "tensor2", "pipeline2", "zero1_pipeline2"])
@pytest.mark.parametrize("changed", [{"dtype": "bf16"}, {"recompute": "full"}])
def test_bf16_and_recomputation(
    ranks: Callable[..., list[Any]], tmp_path: Path, strategy: str, changed: dict[str, str]
) -> None:
    size = parse_strategy(strategy).world_size
    plain = ranks(trained, size, strategy=strategy, folder=str(tmp_path / "a"))[0]
    other = ranks(trained, size, strategy=strategy, folder=str(tmp_path / "b"), **changed)[0]
    if changed == {"recompute": "full"}:
        assert other["losses"] == plain["losses"]
    else:
        assert other["losses"] != plain["losses"]
        assert other["losses"] == pytest.approx(plain["losses"], abs=2e-3)


def test_without_room_for_snapshots_training_goes_on(ranks: Callable[..., list[Any]], tmp_path: Path) -> None:
    (tmp_path / "snapshots-1").mkdir()
    (tmp_path / "snapshots-1" / "slots").mkdir()  # where the file of rank 1 would be
    found = ranks(trained, 2, strategy="ddp", folder=str(tmp_path), snapshots=True)
    assert [one["reason"] for one in found] == ["finished", "finished"]
    assert len(found[0]["warnings"]) == 1
