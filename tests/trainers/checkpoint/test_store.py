"""Does state come back bit for bit, into any layout, and does everything else fail on all ranks with one sentence?"""

import json
import os
import pickle
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from shardwright.cluster.pool import Pool
from shardwright.trainers.checkpoint.manifest import CheckpointError, newest, read
from shardwright.trainers.checkpoint.store import load, save
from shardwright.trainers.world import Worker
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

Tensors = dict[str, torch.Tensor]
Ranks = Callable[..., list[Any]]

LAYOUTS = {
    "one": 1,
    "ddp2": 2,
    "zero2": 2,
    "zero4": 4,
    "tensor2": 2,
    "zero2_tensor2": 4,
    "ddp2_zero2": 4,
    "pipeline2": 2,
}


class Net(nn.Module):
    """Sizes that two and four ranks do not divide evenly; one weight is smaller than the number of ranks."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(6, 10)
        self.down = nn.Linear(10, 7)
        self.tail = nn.Linear(7, 3, bias=False)


def split(net: nn.Module, layout: str) -> nn.Module:
    world = LAYOUTS[layout]
    if layout in ("zero2", "zero4"):
        fully_shard(net, mesh=init_device_mesh("cpu", (world,)))
    elif layout == "ddp2_zero2":
        fully_shard(net, mesh=init_device_mesh("cpu", (2, 2), mesh_dim_names=("replicate", "shard")))
    elif layout in ("tensor2", "zero2_tensor2"):
        mesh = init_device_mesh("cpu", (world // 2, 2), mesh_dim_names=("shard", "tensor"))
        parallelize_module(net, mesh["tensor"], {"up": ColwiseParallel(), "down": RowwiseParallel()})
        if world == 4:
            fully_shard(net, mesh=mesh["shard"])
    elif layout == "pipeline2":
        for name in ("up",) if dist.get_rank() else ("down", "tail"):
            delattr(net, name)
    return net


def build(layout: str, scale: float) -> Tensors:
    """Parameters and two optimizer states of each under a layout: random numbers by name, times `scale`."""
    tensors: Tensors = {"optimizer.updates": torch.tensor(3.0 * scale)}
    for form in ("model.{}", "optimizer.{}.exp_avg", "optimizer.{}.exp_avg_sq"):
        net = Net()
        for name, parameter in net.named_parameters():
            parameter.data = scale * numbers(form.format(name), parameter.shape)
        tensors |= {form.format(name): x.detach() for name, x in split(net, layout).named_parameters()}
    return tensors


def numbers(name: str, shape: torch.Size) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(zlib.crc32(name.encode())))


def local(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def unequal(found: Mapping[str, torch.Tensor], layout: str = "one") -> list[str]:
    expected = build(layout, 1)
    return [name for name, x in found.items() if not torch.equal(local(x), local(expected[name]))]


def save_layout(worker: Worker, layout: str, root: str) -> None:
    save(Path(root, layout), 3, build(layout, 1), {"step": 3, "layout": layout}, attempt=worker.attempt, keep=1)


def load_all(worker: Worker, layout: str, root: str) -> dict[str, Any]:
    found = {}
    for saved in LAYOUTS:
        tensors = build(layout, 0)
        live = {name: local(x).data_ptr() for name, x in tensors.items()}
        host = load(Path(root, saved, "step-000000003"), tensors)
        moved = [name for name, pointer in live.items() if local(tensors[name]).data_ptr() != pointer]
        found[saved] = [host, unequal(tensors, layout), moved]
    return found


@pytest.fixture(scope="module")
def saved(pool: Pool, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One checkpoint of each layout, all of the same values."""
    root = tmp_path_factory.mktemp("saved")
    for layout, world in LAYOUTS.items():
        pool.run(f"{__file__}:save_layout", world, {"layout": layout, "root": str(root)}, 60)
    return root


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_loads_what_every_layout_saved(ranks: Ranks, saved: Path, layout: str) -> None:
    expected = {other: [{"step": 3, "layout": other}, [], []] for other in LAYOUTS}
    assert ranks(load_all, LAYOUTS[layout], layout=layout, root=str(saved)) == [expected] * LAYOUTS[layout]


def test_one_process_without_a_group_reads_without_pickle(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for owner, name in ((pickle, "load"), (pickle, "loads"), (pickle, "Unpickler"), (torch, "load")):
        monkeypatch.setattr(owner, name, None)
    tensors = build("one", 0)
    assert load(saved / "zero2_tensor2" / "step-000000003", tensors)["layout"] == "zero2_tensor2"
    assert unequal(tensors) == []


def test_a_prefix_loads_the_weights_alone(saved: Path) -> None:
    path = saved / "zero4" / "step-000000003"
    weights = {name: x for name, x in build("one", 0).items() if name.startswith("model.")}
    load(path, weights, prefix="model.")
    assert unequal(weights) == []
    with pytest.raises(CheckpointError, match=r"nothing here takes optimizer\."):
        load(path, weights)


def test_a_checkpoint_is_safetensors_and_a_manifest(saved: Path) -> None:
    for layout, world in LAYOUTS.items():
        path = saved / layout / "step-000000003"
        manifest = read(path)
        assert {file.name for file in path.iterdir()} == {"manifest.json", *(file.name for file in manifest.files)}
        assert all(file.name.endswith(".safetensors") for file in manifest.files)
        assert (manifest.step, manifest.world_size, manifest.tensors) == (3, world, len(build("one", 0)))


def test_other_tools_open_it(saved: Path) -> None:
    from safetensors.torch import load_file
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
    from torch.distributed.checkpoint.state_dict_loader import load as load_by_torch

    alone = load_file(saved / "one" / "step-000000003" / "rank-00000.safetensors")
    assert unequal(alone) == [] and len(alone) == len(build("one", 0))
    tensors = build("one", 0)
    with pytest.warns(UserWarning, match="assuming the intent is to load in a single process"):
        load_by_torch(tensors, storage_reader=HuggingFaceStorageReader(str(saved / "zero4" / "step-000000003")))
    assert unequal(tensors) == []


def awkward(world: int) -> Tensors:
    line = init_device_mesh("cpu", (world,))
    grid = init_device_mesh("cpu", (2, world // 2), mesh_dim_names=("a", "b"))
    tied = torch.arange(12.0).reshape(3, 4)
    return {
        "scalar": torch.tensor(2.5),
        "scalar.sharded": distribute_tensor(torch.tensor(7), line, [Replicate()]),
        "bf16": distribute_tensor(torch.arange(24.0).reshape(8, 3).bfloat16(), line, [Shard(0)]),
        "fewer.rows.than.ranks": distribute_tensor(torch.arange(6.0).reshape(2, 3), line, [Shard(0)]),
        "grid": distribute_tensor(torch.arange(35.0).reshape(5, 7), grid, [Shard(0), Shard(1)]),
        "grid.replicated": distribute_tensor(torch.arange(35).reshape(5, 7), grid, [Replicate(), Shard(1)]),
        "transposed": torch.arange(35.0).reshape(5, 7).t(),
        "flags": torch.arange(7) % 2 == 0,
        "fp8": torch.arange(5.0).to(torch.float8_e4m3fn),
        "nothing": torch.empty(0, 3),
        "tied.a": tied,
        "tied.b": tied,
    }


def round_trip(worker: Worker, root: str) -> list[str]:
    tensors = awkward(worker.world_size)
    path = save(Path(root), 1, tensors, {}, attempt=0, keep=1)
    found = {name: torch.zeros_like(x) for name, x in tensors.items()}
    found["transposed"] = torch.zeros(5, 7).t()
    load(path, found)
    return [name for name, x in tensors.items() if not torch.equal(local(x).float(), local(found[name]).float())]


def test_awkward_tensors_come_back(ranks: Ranks, tmp_path: Path) -> None:
    assert ranks(round_trip, 4, root=str(tmp_path)) == [[]] * 4


def save_replicated(worker: Worker, root: str) -> None:
    save(Path(root), 1, {f"w{i}": torch.zeros(1000) for i in range(10)}, {}, attempt=0, keep=1)


def test_what_all_ranks_hold_is_written_once(ranks: Ranks, tmp_path: Path) -> None:
    ranks(save_replicated, 4, root=str(tmp_path))
    sizes = [file.bytes for file in read(tmp_path / "step-000000001").files]
    assert len(sizes) == 4 and 40_000 < sum(sizes) < 45_000


def fail_on_one_rank(worker: Worker, root: str) -> str:
    bad = torch.zeros(2, dtype=torch.complex64)
    try:
        save(Path(root), 2, {f"of.{worker.rank}": bad if worker.rank == 1 else bad.real}, {}, attempt=0, keep=1)
    except CheckpointError as error:
        return str(error)
    return "saved"


def test_one_ranks_failure_is_everyones_and_publishes_nothing(ranks: Ranks, tmp_path: Path) -> None:
    sentence = "tensor 'of.1' has torch.complex64, which a checkpoint cannot hold"
    assert ranks(fail_on_one_rank, 3, root=str(tmp_path)) == [sentence] * 3
    assert not list(tmp_path.iterdir())


def fill_the_disk(worker: Worker, root: str) -> str:
    import resource

    if worker.rank == 1:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
    try:
        save(Path(root), 2, {f"of.{worker.rank}": torch.zeros(9999)}, {}, attempt=0, keep=1)
    except CheckpointError as error:
        return str(error)
    return "saved"


def test_a_full_disk_is_named_with_its_rank(ranks: Ranks, tmp_path: Path) -> None:
    found = ranks(fill_the_disk, 2, root=str(tmp_path))
    assert len(set(found)) == 1 and "step 2 was not saved" in found[0] and "rank 1: OSError(27" in found[0]
    assert not list(tmp_path.iterdir())


def attempt_load(worker: Worker, path: str) -> str:
    try:
        load(Path(path), {"w": torch.zeros(5), "v": torch.zeros(3)})
    except CheckpointError as error:
        return str(error)
    return "loaded"


def save_two(root: Path, names: tuple[str, str] = ("w", "v"), step: int = 1) -> Path:
    return save(root, step, dict(zip(names, (torch.ones(5), torch.ones(3)), strict=True)), {}, attempt=0, keep=9)


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


DAMAGE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "a flipped bit": (lambda path: flip(path / "rank-00000.safetensors"), "is damaged"),
    "a flipped bit of the header": (
        lambda path: (path / "rank-00000.safetensors").write_bytes(b"\xff" + bytes(323)),
        "is damaged",
    ),
    "a short file": (lambda path: os.truncate(path / "rank-00000.safetensors", 100), "is damaged"),
    "a lost file": (lambda path: (path / "rank-00000.safetensors").unlink(), "lacks rank-00000.safetensors"),
    "a foreign file": (lambda path: (path / "x.safetensors").touch(), r"not saved with it: ['x.safetensors']"),
    "no manifest": (lambda path: (path / "manifest.json").unlink(), "it has no manifest.json"),
    "a newer format": (
        lambda path: (path / "manifest.json").write_text(json.dumps({"format": 9})),
        "install a newer shardwright",
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_told_before_anything_is_read(tmp_path: Path, damage: str) -> None:
    path = save_two(tmp_path)
    spoil, complaint = DAMAGE[damage]
    spoil(path)
    tensors = {"w": torch.zeros(5), "v": torch.zeros(3)}
    with pytest.raises(CheckpointError) as told:
        load(path, tensors)
    assert complaint in str(told.value)
    assert not any(x.any() for x in tensors.values())


def test_damage_that_one_rank_finds_is_told_on_all(ranks: Ranks, tmp_path: Path) -> None:
    path = save_two(tmp_path)
    flip(path / "rank-00000.safetensors")
    first, *others = ranks(attempt_load, 3, path=str(path))
    assert "is damaged" in first and others == [first, first]


def load_stage(worker: Worker, path: str) -> str:
    mine = {"w": torch.zeros(5), "u": torch.zeros(1)} if worker.rank == 0 else {"extra": torch.zeros(1)}
    try:
        load(Path(path), mine)
    except CheckpointError as error:
        return str(error)
    return "loaded"


def test_names_that_do_not_agree_are_one_sentence_over_all_ranks(ranks: Ranks, tmp_path: Path) -> None:
    path = save_two(tmp_path)
    sentence = f"checkpoint {path} is of another model or optimizer: it lacks extra, u; nothing here takes v"
    assert ranks(load_stage, 2, path=str(path)) == [sentence] * 2


def test_a_shape_or_dtype_that_differs_is_named(tmp_path: Path) -> None:
    path = save_two(tmp_path)
    with pytest.raises(CheckpointError, match=r"w is float32\[6\] here and float32\[5\] in the checkpoint$"):
        load(path, {"w": torch.zeros(6), "v": torch.zeros(3)})
    with pytest.raises(CheckpointError, match=r"v is bfloat16\[3\] here and float32\[3\] in the checkpoint$"):
        load(path, {"w": torch.zeros(5), "v": torch.zeros(3).bfloat16()})


def test_a_published_step_is_left_as_it_is(tmp_path: Path) -> None:
    path = save_two(tmp_path)
    before = {file.name: (file.stat().st_ino, file.stat().st_mtime_ns) for file in path.iterdir()}
    assert save_two(tmp_path, names=("a", "b")) == path
    assert {file.name: (file.stat().st_ino, file.stat().st_mtime_ns) for file in path.iterdir()} == before
    assert newest(tmp_path) == path


def test_host_values_that_are_not_json_publish_nothing(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="not JSON serializable"):
        save(tmp_path, 1, {"w": torch.zeros(2)}, {"step": {1}}, attempt=0, keep=1)
    assert not list(tmp_path.iterdir())
