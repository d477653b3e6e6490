"""Is the newest snapshot that all ranks hold always whole, and is nothing else ever taken for one?"""

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from hypothesis import given, settings
from hypothesis import strategies as st
from shardwright.trainers.checkpoint.slot_file import HEADER_BYTES, PREAMBLE_BYTES, SlotFile, Stamp
from shardwright.trainers.checkpoint.snapshot import Slots, SnapshotError, committed, newest_common
from shardwright.trainers.world import Worker
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor

Ranks = Callable[..., list[Any]]


def tensors(value: float = 0) -> dict[str, torch.Tensor]:
    return {
        "w": torch.full((3, 5), value),
        "half": torch.full((7,), value).bfloat16(),
        "flags": torch.arange(3) == int(value) % 3,
        "scalar": torch.tensor(value),
        "nothing": torch.empty(0, 2),
        "transposed": torch.full((4, 3), value).t(),
    }


def fill(state: dict[str, torch.Tensor], value: float) -> None:
    for name, tensor in tensors(value).items():
        state[name].copy_(tensor)


def equal(state: dict[str, torch.Tensor], value: float) -> bool:
    return all(torch.equal(state[name], tensor) for name, tensor in tensors(value).items())


def test_tensors_and_host_values_come_back_in_place(tmp_path: Path) -> None:
    state = tensors(3)
    Slots(tmp_path, state).write(3, {"step": 3, "note": "é"})
    fresh = tensors(0)
    live = {name: tensor.data_ptr() for name, tensor in fresh.items()}
    assert Slots(tmp_path, fresh).read(3) == {"step": 3, "note": "é"}
    assert equal(fresh, 3) and {name: tensor.data_ptr() for name, tensor in fresh.items()} == live


def test_the_two_newest_are_held(tmp_path: Path) -> None:
    state = tensors()
    slots = Slots(tmp_path, state)
    assert committed(tmp_path) == []
    for step in (10, 20, 30):
        fill(state, step)
        slots.write(step, {})
    assert committed(tmp_path) == [20, 30]
    slots.read(20)
    assert equal(state, 20)


def test_going_on_from_the_older_one_keeps_it(tmp_path: Path) -> None:
    state = tensors()
    slots = Slots(tmp_path, state)
    for step in (1, 2):
        fill(state, step)
        slots.write(step, {})
    again = Slots(tmp_path, state)
    again.read(1)
    fill(state, 7)
    again.write(2, {"again": True})
    assert committed(tmp_path) == [1, 2]
    again.read(1)
    assert equal(state, 1)
    assert again.read(2) == {"again": True} and equal(state, 7)


def test_a_start_that_reads_none_drops_what_was_left(tmp_path: Path) -> None:
    slots = Slots(tmp_path, tensors())
    slots.write(8, {})
    slots.write(9, {})
    Slots(tmp_path, tensors()).write(5, {})
    assert committed(tmp_path) == [5]


def header_start(slot: int, slot_bytes: int) -> int:
    return PREAMBLE_BYTES + slot * (HEADER_BYTES + slot_bytes)


@given(place=st.integers(0, 40), change=st.integers(1, 255))
@settings(max_examples=40, deadline=None)
def test_a_torn_header_is_not_committed(tmp_path_factory: pytest.TempPathFactory, place: int, change: int) -> None:
    folder = tmp_path_factory.mktemp("torn")
    slots = Slots(folder, tensors())
    slots.write(1, {"tokens": 123456, "more": "x" * 20})
    slots.write(2, {"tokens": 123456, "more": "x" * 20})
    size = (folder / "slots").stat().st_size
    with (folder / "slots").open("r+b") as file:
        file.seek(header_start(1, (size - PREAMBLE_BYTES) // 2 - HEADER_BYTES) + place)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ change]))
    assert committed(folder) == [1]
    Slots(folder, tensors()).read(1)
    with pytest.raises(SnapshotError, match=r"no snapshot of step 2 under this layout \(held: \[1\]\)"):
        Slots(folder, tensors()).read(2)


def test_a_write_that_never_ended_leaves_the_other_slot(tmp_path: Path) -> None:
    state = tensors(1)
    slots = Slots(tmp_path, state)
    slots.write(1, {})
    slots.write(2, {})
    with pytest.raises(SnapshotError, match="room for"):  # fails after the data was copied over step 1
        slots.write(3, {"much": "x" * HEADER_BYTES})
    assert committed(tmp_path) == [2]
    fill(state, 4)
    slots.write(4, {})
    assert committed(tmp_path) == [2, 4]


@pytest.mark.parametrize(
    "other",
    [
        {"w": torch.zeros(5, 3), **{k: v for k, v in tensors().items() if k != "w"}},
        {**tensors(), "half": torch.zeros(7).half()},
        {**tensors(), "more": torch.zeros(1)},
        dict(reversed(tensors().items())),
    ],
    ids=["shape", "dtype", "names", "order"],
)
def test_another_layout_reads_nothing(tmp_path: Path, other: dict[str, torch.Tensor]) -> None:
    Slots(tmp_path, tensors()).write(1, {})
    with pytest.raises(SnapshotError, match="no snapshot of step 1 under this layout"):
        Slots(tmp_path, other).read(1)
    assert committed(tmp_path) == []


def make(folder: Path, rank: int, world_size: int, *steps: int) -> Path:
    folder.mkdir(exist_ok=True)
    file = SlotFile(folder, Stamp(rank, world_size, 64, bytes(32)))
    for slot, step in enumerate(steps):
        file.commit(slot, step, {})
    return folder


def test_the_newest_step_that_all_ranks_hold(tmp_path: Path) -> None:
    a, b, c = (make(tmp_path / name, rank, 3, *steps) for rank, (name, steps) in enumerate(HELD.items()))
    assert newest_common([a, b, c]) == 4
    assert newest_common([a, c, b]) is None  # other ranks
    assert newest_common([a, b]) is None  # another world size
    assert newest_common([a, b, tmp_path / "empty"]) is None
    assert newest_common([]) is None
    make(tmp_path / "c", 2, 3, 2, 3)
    assert newest_common([a, b, c]) is None  # nothing in common


HELD = {"a": (4, 5), "b": (4, 3), "c": (5, 4)}


def test_a_file_of_something_else_is_none(tmp_path: Path) -> None:
    for content in (b"", b"x" * 10_000):
        (tmp_path / "slots").write_bytes(content)
        assert committed(tmp_path) == [] and newest_common([tmp_path]) is None
    Slots(tmp_path, tensors()).write(1, {})
    assert committed(tmp_path) == [1]


def test_no_room_is_told_before_a_step_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(descriptor: int, offset: int, size: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    with pytest.raises(SnapshotError, match=r"no room for snapshots of .* MB in .*\(No space left on device\)"):
        Slots(tmp_path, tensors())
    assert not list(tmp_path.iterdir())


def test_the_supervisors_half_loads_no_torch() -> None:
    code = (
        "import sys, shardwright.trainers.checkpoint.snapshot, shardwright.trainers.checkpoint.manifest, "
        "shardwright.trainers.checkpoint.publish; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def keep_shards(worker: Worker, folder: str) -> list[object]:
    mesh = init_device_mesh("cpu", (worker.world_size,))
    whole = torch.arange(21.0).reshape(7, 3)
    state: dict[str, torch.Tensor] = {"w": distribute_tensor(whole, mesh, [Shard(0)])}
    mine = Path(folder, str(worker.rank))
    mine.mkdir()
    Slots(mine, state).write(1, {})
    size = (mine / "slots").stat().st_size
    local = state["w"].to_local() if isinstance(state["w"], DTensor) else state["w"]
    local.zero_()
    Slots(mine, state).read(1)
    back = torch.equal(state["w"].full_tensor(), whole)  # type: ignore[operator]
    dist.barrier()
    newest = newest_common([Path(folder, str(rank)) for rank in range(worker.world_size)])
    return [back, size < PREAMBLE_BYTES + 2 * (HEADER_BYTES + 65), newest, committed(mine)]


def test_a_rank_keeps_its_shard(ranks: Ranks, tmp_path: Path) -> None:
    assert ranks(keep_shards, 4, folder=str(tmp_path)) == [[True, True, 1, [1]]] * 4


def change_placement(worker: Worker, folder: str) -> list[object]:
    mesh = init_device_mesh("cpu", (2, 2))
    mine = Path(folder, str(worker.rank))
    mine.mkdir()
    for step, placements in enumerate([(Shard(0), Replicate()), (Replicate(), Shard(0))]):
        slots = Slots(mine, {"w": distribute_tensor(torch.eye(4), mesh, placements)})
        held = committed(mine)
        slots.write(step, {})
    return [held, committed(mine)]


def test_equal_sizes_under_another_placement_are_another_layout(ranks: Ranks, tmp_path: Path) -> None:
    assert ranks(change_placement, 4, folder=str(tmp_path)) == [[[], [1]]] * 4


def test_a_write_allocates_no_tensor(tmp_path: Path) -> None:
    from torch.utils._python_dispatch import TorchDispatchMode

    called: list[str] = []

    class Calls(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            called.append(str(func))
            return func(*args, **(kwargs or {}))

    state = tensors()
    slots = Slots(tmp_path, state)
    with Calls():
        slots.write(1, {})
    assert called == ["aten.copy_.default"] * len(state)
