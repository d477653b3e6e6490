"""TensorBoard shows what the events say, over restarts."""

import subprocess
import sys

import pytest
from shardwright.jobs.events import Event
from shardwright.jobs.tracking import TensorBoard, installed

pytestmark = pytest.mark.skipif(not installed(), reason="tensorboard is not installed")


def event(kind: str, step: int, attempt: int = 0, rank: int = 0, **fields) -> Event:
    return Event(1000.0 + step, kind, attempt, rank, {"step": step, **fields})


def scalars(folder, tag: str) -> list[tuple[int, float]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accumulator = EventAccumulator(str(folder)).Reload()
    return [(one.step, round(one.value, 4)) for one in accumulator.Scalars(tag)]


def test_tensorboard_reads_the_scalars(tmp_path):
    board = TensorBoard(tmp_path)
    for step in (1, 2):
        board.update(event("step", step, loss=3.0 - step, lr=0.01, grad_norm=1.5, tokens=100, seconds=0.5))
    board.update(event("eval", 2, loss=1.25, bits_per_byte=1.8))
    board.update(event("checkpoint", 2, path="x"))
    board.close()
    assert scalars(tmp_path, "train/loss") == [(1, 2.0), (2, 1.0)]
    assert scalars(tmp_path, "train/tokens_per_second") == [(1, 200.0), (2, 200.0)]
    assert scalars(tmp_path, "train/gradient_norm") == [(1, 1.5), (2, 1.5)]
    assert scalars(tmp_path, "validation/bits_per_byte") == [(2, 1.8)]


def test_terms_are_scalars_and_phases_have_losses_of_their_own(tmp_path):
    board = TensorBoard(tmp_path)
    for step, turn in enumerate(("critic", "generator", "critic"), 1):
        board.update(
            event("step", step, loss=float(step), turn=turn, terms={"loss": float(step), "return": 2.0 * step})
        )
    board.close()
    assert scalars(tmp_path, "train/loss/critic") == [(1, 1.0), (3, 3.0)]
    assert scalars(tmp_path, "train/loss/generator") == [(2, 2.0)]
    assert scalars(tmp_path, "train/return") == [(1, 2.0), (2, 4.0), (3, 6.0)]


def test_steps_that_a_restart_takes_back_are_withdrawn(tmp_path):
    board = TensorBoard(tmp_path)
    for step in (1, 2, 3):
        board.update(event("step", step, loss=1.0))
    board.update(event("resume", 1, attempt=1, source="snapshot"))
    board.update(event("step", 2, attempt=1, loss=5.0))
    board.close()
    assert scalars(tmp_path, "train/loss") == [(1, 1.0), (2, 5.0)]


def test_each_step_is_written_once_whatever_the_number_of_ranks(tmp_path):
    board = TensorBoard(tmp_path)
    for rank in (0, 1):
        board.update(event("step", 1, rank=rank, loss=float(rank)))
    board.update(event("step", 2, rank=2, loss=None))
    board.close()
    assert scalars(tmp_path, "train/loss") == [(1, 0.0)]


def test_a_disk_error_ends_tracking_and_nothing_else(tmp_path):
    board = TensorBoard(tmp_path)
    board.close()
    board._writer = Broken()
    board.update(event("step", 1, loss=1.0))
    assert "no longer written" in board.failed
    board.update(event("step", 2, loss=1.0))


class Broken:
    """A disk that is full; a real one cannot be had without root."""

    def write(self, _: bytes) -> None:
        raise OSError(28, "No space left on device")


def test_importing_tracking_imports_no_tensorboard():
    code = "import sys, shardwright.jobs.tracking as t; t.installed(); sys.exit('tensorboard' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
