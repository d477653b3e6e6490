"""Does every slot keep its own rows: through micro-batches, ranks, resume, and another number of ranks?"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from shardwright.jobs.verify import verify
from shardwright.models.catalog import configure, find
from shardwright.models.entry import Entry, Stream
from shardwright.trainers.data.dataset import Data, MapStyle, slot_data
from shardwright.trainers.follow import Following
from shardwright.trainers.layout import parse_strategy
from shardwright.trainers.loop import train
from shardwright.trainers.mesh import Mesh, build_mesh
from shardwright.trainers.options import CheckpointOptions, EvalOptions, OptimizerOptions, ScheduleOptions, TrainOptions
from shardwright.trainers.session import Session, Training
from shardwright.trainers.streams import Streams
from shardwright.trainers.world import Worker
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

CONFIGS: dict[str, dict[str, Any]] = {
    "lstm": {"vocab_size": 32, "width": 8, "dropout": 0.1},
    "dqn": {"width": 16, "memory": 12, "replay": 2, "copy_every": 2},
    "ppo": {"width": 16, "horizon": 8},
}
STEPS, BATCH = 6, 8


def made(worker: Worker) -> Streams:
    entry = Entry(build=nn.Module, streams=lambda config: {"a": Stream((2,)), "b": Stream((), "int64", unit="gone")})
    mesh: Mesh = build_mesh(parse_strategy("tensor1"), 0, worker.device)
    return Streams(entry, None, nn.Module(), mesh, slots=4)


def micro_batches() -> list[dict[str, Tensor]]:
    return [{"x": torch.zeros(2)}, {"x": torch.zeros(2)}]


def rows_through_a_step(worker: Worker) -> list[list[float]]:
    streams = made(worker)
    streams.take({1: {"a": torch.full((2, 2), 2.0)}, 0: {"a": torch.full((2, 2), 1.0)}})
    first, second = streams.hand_out(micro_batches(), fresh=False)
    kept = [first["a"].mean().item(), second["a"].mean().item()]
    blank = streams.blank({"x": torch.zeros(3)})
    anew = [batch["a"].abs().max().item() for batch in streams.hand_out(micro_batches(), fresh=True)]
    return [kept, list(blank["a"].shape), [blank["a"].abs().max().item()], anew, sorted(first)]


def test_rows_go_to_their_micro_batch_and_begin_anew(ranks: Callable[..., list[Any]]) -> None:
    found = ranks(rows_through_a_step, 1)[0]
    assert found == [[1.0, 2.0], [3, 2], [0.0], [0.0, 0.0], ["a", "x"]]  # a stage without the unit has no rows of "b"


def wrong_rows(worker: Worker, state: dict[str, int]) -> str:
    rows = {name: torch.zeros(2, width) for name, width in state.items()}
    try:
        made(worker).take({0: rows, 1: rows})
    except ValueError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(
    ("state", "message"),
    [({}, "returned no rows of the stream 'a'"), ({"a": 2, "c": 1}, "['c'], which are no streams of the entry")],
)
def test_forgotten_and_unknown_rows_are_refused(
    ranks: Callable[..., list[Any]], state: dict[str, int], message: str
) -> None:
    assert message in ranks(wrong_rows, 1, state=state)[0]


def torn_rows() -> None:
    """The last micro-batch's rows are those of the step before."""
    original = Streams.take

    def take(self: Streams, states: Any) -> None:
        before = {name: row.clone() for name, row in self.rows.items()}
        original(self, states)
        for name, row in self.rows.items():
            row[len(row) // 2 :] = before[name][len(row) // 2 :]

    Streams.take = take


def swapped_rows() -> None:
    """Micro-batches get each other's rows."""
    original = Streams.take
    Streams.take = lambda self, states: original(self, {-index: rows for index, rows in states.items()})


def copied_on_one_rank() -> None:
    """Only one rank's target follows."""
    original = Following.step

    def step(self: Following, updates: int) -> None:
        if torch.distributed.get_rank() == 0:
            original(self, updates)

    Following.step = step


FAULTS = {f.__name__: f for f in (torn_rows, swapped_rows, copied_on_one_rank)}


def differences(worker: Worker, name: str, strategy: str, fault: str) -> dict[str, float] | None:
    FAULTS[fault]()
    return verify(worker, name, "", CONFIGS[name], "", strategy, {})


@pytest.mark.parametrize(
    ("fault", "name", "strategy"),
    [
        ("torn_rows", "lstm", "ddp"),
        ("torn_rows", "lstm", "pipeline2"),
        ("torn_rows", "dqn", "zero3"),
        ("torn_rows", "ppo", "tensor2"),
        ("swapped_rows", "lstm", "zero2"),
        ("copied_on_one_rank", "dqn", "ddp"),
        ("copied_on_one_rank", "dqn", "zero3"),
        ("copied_on_one_rank", "dqn", "tensor2"),
    ],
)
def test_a_planted_fault_is_found(ranks: Callable[..., list[Any]], fault: str, name: str, strategy: str) -> None:
    size = parse_strategy(strategy).world_size
    found = ranks(differences, size, name=name, strategy=strategy, fault=fault)[0]
    assert any(value > 1e-5 for value in found.values()), found


class Text:
    """Samples of made-up tokens, the same in every process."""

    def __len__(self) -> int:
        return 4 * BATCH  # each slot reads four samples, and then begins anew

    def __getitem__(self, index: int) -> dict[str, Any]:
        rows = torch.arange(index * 6, index * 6 + 7) * 11 % 32
        return {"inputs": rows[:-1], "targets": rows[1:]}


def data(name: str) -> Data:
    text: MapStyle = Text()
    return Data(text, None, "test", {}, tokens_per_sample=6) if name == "lstm" else slot_data(BATCH)


def trained(worker: Worker, name: str, strategy: str, folder: str, stop_after: int = 0) -> dict[str, Any]:
    """Train, or go on: the losses, and all rows of every stream at the end."""
    events: list[tuple[str, dict[str, Any]]] = []
    entry = find(name)

    def tell(kind: str, /, **fields: Any) -> None:
        events.append((kind, fields))

    def stop() -> str:
        done = sum(kind == "step" for kind, _ in events) + events_before(events)
        return "stop" if stop_after and done + 1 >= stop_after else ""

    asked = Training(
        entry=entry,
        config=configure(entry, "", CONFIGS[name]),
        layout=parse_strategy(strategy),
        data=data(name),
        train=TrainOptions(steps=STEPS, global_batch=BATCH, micro_batch=2),
        optimizer=OptimizerOptions(lr=1e-2),
        schedule=ScheduleOptions(),
        checkpoint=CheckpointOptions(),
        eval=EvalOptions(),
        seed=3,
        snapshot_every=0,
        checkpoints=Path(folder),
        traces=Path(folder),
        first_guess=2,
    )
    session = Session(replace(worker, tell=tell, stop=stop, snapshots=None), asked)
    held = rows(session)
    train(session)
    return {
        "losses": [fields["loss"] for kind, fields in events if kind == "step"],
        "begin": held,
        "end": rows(session),
    }


def events_before(events: list[tuple[str, dict[str, Any]]]) -> int:
    return next((fields["step"] for kind, fields in events if kind == "resume"), 0)


def rows(session: Session) -> dict[str, list[Any]]:
    found = {name: x.full_tensor() if isinstance(x, DTensor) else x for name, x in session.streams.tensors().items()}
    return {name: x.flatten().tolist() for name, x in found.items()}


@pytest.mark.parametrize(
    ("name", "strategy"),
    [("lstm", "zero3"), ("lstm", "pipeline2"), ("dqn", "zero3"), ("dqn", "tensor2"), ("ppo", "ddp")],
)
def test_a_stopped_run_resumes_bit_for_bit(
    ranks: Callable[..., list[Any]], tmp_path: Path, name: str, strategy: str
) -> None:
    size, how = parse_strategy(strategy).world_size, {"name": name, "strategy": strategy}
    whole = ranks(trained, size, **how, folder=str(tmp_path / "twin"))
    first = ranks(trained, size, **how, folder=str(tmp_path / "run"), stop_after=3)
    second = ranks(trained, size, **how, folder=str(tmp_path / "run"))
    assert len(first[0]["losses"]) == len(second[0]["losses"]) == 3
    assert first[0]["losses"] + second[0]["losses"] == whole[0]["losses"]
    for rank in range(size):
        assert second[rank]["begin"] == first[rank]["end"]
        assert second[rank]["end"] == whole[rank]["end"]
        assert any(any(values) for values in whole[rank]["end"].values())


@pytest.mark.parametrize("name", ["lstm", "dqn"])
def test_a_slot_keeps_its_rows_on_other_numbers_of_ranks(
    ranks: Callable[..., list[Any]], tmp_path: Path, name: str
) -> None:
    whole = ranks(trained, 1, name=name, strategy="tensor1", folder=str(tmp_path / "twin"))[0]
    run = str(tmp_path / "run")
    first = ranks(trained, 2, name=name, strategy="zero3", folder=run, stop_after=2)[0]
    second = ranks(trained, 4, name=name, strategy="ddpx4", folder=run, stop_after=4)[0]
    third = ranks(trained, 1, name=name, strategy="tensor1", folder=run)[0]
    assert (second["begin"], third["begin"]) == (first["end"], second["end"])
    losses = first["losses"] + second["losses"] + third["losses"]
    assert losses == pytest.approx(whole["losses"], abs=1e-5)
