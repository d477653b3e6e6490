"""Does `data show` print the first samples that a run reads, and does it do without torch?"""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from shardwright.trainers.data.dataset import open_data
from shardwright.trainers.data.loader import Loader
from shardwright.trainers.data.order import Order
from shardwright.trainers.data.show import lines, samples
from shardwright.trainers.options import DataOptions


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> DataOptions:
    folder = tmp_path_factory.mktemp("show")
    rows = [f"document {number} of many" for number in range(300)]
    (folder / "a.jsonl").write_text("".join(json.dumps({"text": row}) + "\n" for row in rows))
    path, cache = str(folder / "a.jsonl"), str(folder / "cache")
    return DataOptions(name="jsonl", path=path, cache=cache, sequence_length=60, held_out=0.1)


def test_the_samples_are_those_of_the_first_step(options: DataOptions) -> None:
    shown = samples(options, "tokens", seed=3, count=4)
    data = open_data(options, "tokens")
    (batch,) = Loader(data.train, Order(len(data.train), 3), 3, 4, 0, 1, 4).load(0)
    assert [sample["sample"] for sample in shown] == batch["sample"].tolist()
    assert [sample["ids"][:-1] for sample in shown] == batch["inputs"].tolist()
    assert [sample["ids"][1:] for sample in shown] == batch["targets"].tolist()
    json.dumps(shown)


def test_documents_are_told_apart(options: DataOptions) -> None:
    for sample in samples(options, "tokens", seed=0, count=10):
        assert all(sample["ids"][end] == 0 for end in sample["ends"])
        assert len(sample["ends"]) == sample["ids"].count(0) >= 2
        assert "\0".join(sample["texts"]) == bytes(sample["ids"]).decode()
        assert sample["texts"][1].startswith("document")


def test_the_lines_show_ids_ends_and_text(options: DataOptions) -> None:
    (sample,) = samples(options, "tokens", seed=0, count=1)
    found = list(lines([sample]))
    assert found[0] == f"position 0: sample {sample['sample']}"
    assert found[1].startswith(f"  61 ids: {sample['ids'][0]} {sample['ids'][1]} ")
    assert found[2] == f"  documents end at: {', '.join(map(str, sample['ends']))}"
    assert found.count("  +--- the next document") == len(sample["ends"])
    assert f"  | {sample['texts'][1]}" in found


def test_a_data_set_of_the_user_shows_its_values(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_data_to_show.py").write_text(
        "import numpy\ndata = [{'x': numpy.zeros((2, 3), 'float32'), 'y': 1}]\npairs = [(1.0, 2)]\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    shown = samples(DataOptions(name="own_data_to_show:data"), "samples", 0, 1)
    assert shown == [{"position": 0, "sample": 0, "values": {"x": "float32 [2, 3]", "y": "int64 []"}}]
    assert list(lines(shown)) == ["position 0: sample 0", "  x: float32 [2, 3]", "  y: int64 []"]
    assert samples(DataOptions(name="own_data_to_show:pairs"), "samples", 0, 1)[0]["values"].keys() == {"0", "1"}


def test_packing_and_showing_do_without_torch(tmp_path: Path) -> None:
    program = (
        "import sys\n"
        "from shardwright.trainers.data.pack import prepare\n"
        "from shardwright.trainers.data.show import samples\n"
        "from shardwright.trainers.options import DataOptions\n"
        "prepare(DataOptions(cache=sys.argv[1])); samples(DataOptions(cache=sys.argv[1]), 'tokens', 0, 2)\n"
        "sys.exit(bool({'torch', 'tokenizers'} & set(sys.modules)))\n"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=True)


def test_checking_a_source_loads_neither_torch_nor_arrow() -> None:
    program = (
        "import sys\n"
        "from shardwright.trainers.data.sources import check_source\n"
        "from shardwright.trainers.options import DataOptions\n"
        "check_source(DataOptions())\n"
        "sys.exit(bool({'torch', 'pyarrow', 'numpy'} & set(sys.modules)))\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
