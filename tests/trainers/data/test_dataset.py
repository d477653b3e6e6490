"""Are samples the packed tokens, each once, and is a data set of the user's own taken as it comes?"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from shardwright.trainers.data import documents, shards
from shardwright.trainers.data.dataset import TokenSamples, open_data
from shardwright.trainers.data.pack import prepare
from shardwright.trainers.data.shards import ShardWriter, TokenStream
from shardwright.trainers.options import DataOptions

ROWS = [f"row {number}: " + "word " * (number % 50) for number in range(400)]


def options(tmp_path: Path, **more: Any) -> DataOptions:
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"text": row}) + "\n" for row in ROWS))
    return DataOptions(**{"name": "jsonl", "path": str(path), "cache": str(tmp_path / "cache"), **more})


@pytest.fixture(scope="module")
def cut(tmp_path_factory: pytest.TempPathFactory) -> TokenStream:
    """0 to 999 in three shards, of which one is empty, one has several record batches."""
    folder = tmp_path_factory.mktemp("cut")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards, "BATCH", 7)
        for name, low, high in (("a", 0, 10), ("b", 10, 10), ("c", 10, 995), ("d", 995, 1000)):
            writer = ShardWriter(folder / name, 1000)
            for start in range(low, high, 5):
                writer.append(np.arange(start, min(start + 5, high)))
            writer.publish()
    assert not (folder / "b").exists()
    return TokenStream([folder / name for name in "acd"])


@given(starts=st.lists(st.integers(0, 900), max_size=9), length=st.integers(1, 100))
def test_rows_cross_shards_unseen(cut: TokenStream, starts: list[int], length: int) -> None:
    rows = cut.rows(np.array(starts, np.int64), length)
    assert rows.shape == (len(starts), length)
    assert np.array_equal(rows, np.add.outer(np.array(starts, np.int64), np.arange(length)))


@pytest.mark.parametrize("start", [-1, 990])
def test_a_row_outside_the_stream_is_refused(cut: TokenStream, start: int) -> None:
    with pytest.raises(IndexError):
        cut.rows(np.array([start]), 11)


def test_ids_take_the_fewest_bytes() -> None:
    found = [shards.token_dtype(size).name for size in (256, 257, 65536, 65537)]
    assert found == ["uint8", "uint16", "uint16", "uint32"]


@given(length=st.integers(1, 400))
def test_every_token_is_a_target_once(cut: TokenStream, length: int) -> None:
    samples = TokenSamples(cut, length)
    batch = samples.fetch(np.arange(len(samples)))
    assert np.array_equal(batch["targets"], batch["inputs"] + 1)
    assert batch["targets"].ravel().tolist() == list(range(1, len(samples) * length + 1))
    assert 1000 - len(samples) * length <= length
    assert {name: rows[-1].tolist() for name, rows in batch.items()} == {
        name: row.tolist() for name, row in samples[len(samples) - 1].items()
    }


@pytest.mark.parametrize("index", [-1, 100])
def test_a_sample_outside_is_refused(cut: TokenStream, index: int) -> None:
    samples = TokenSamples(cut, 10)
    with pytest.raises(IndexError):
        samples[index]


def test_packed_text_says_what_is_known_of_it(tmp_path: Path) -> None:
    data = open_data(options(tmp_path, held_out=0.1), "tokens")
    assert data.vocab_size == 256
    assert data.tokens_per_sample == 128
    assert data.held_out is not None
    assert data.identity == prepare(options(tmp_path, held_out=0.1)).identity
    assert data.decode(data.encode("häuser")) == "häuser"
    assert data.files[0]["name"] == "a.jsonl"
    assert data.summary["files"] == 1
    assert data.summary["tokens"]["train"] // 128 - len(data.train) in (0, 1)
    json.dumps([dict(data.summary), list(data.files)])


def test_several_parts_are_one_stream(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "PART", 1024)
    cut = open_data(options(tmp_path, cache=str(tmp_path / "1")), "tokens")
    monkeypatch.setattr(documents, "PART", 1 << 30)
    whole = open_data(options(tmp_path, cache=str(tmp_path / "2")), "tokens")
    indices = np.arange(len(whole.train))
    assert len(prepare(options(tmp_path, cache=str(tmp_path / "1"))).manifest["shards"]["train"]) > 10
    for name in ("inputs", "targets"):
        assert np.array_equal(cut.train.fetch(indices)[name], whole.train.fetch(indices)[name])


def test_too_little_text_for_a_sample_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"train side holds \d+ tokens.*sequence_length \+ 1 = 1000001"):
        open_data(options(tmp_path, sequence_length=10**6), "tokens")
    with pytest.raises(ValueError, match=r"held_out side .* a larger data\.held_out"):
        open_data(options(tmp_path, sequence_length=5000), "tokens")


def test_text_is_refused_by_a_model_that_reads_samples(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="gives tokens, but the model's entry says data = 'samples'"):
        open_data(options(tmp_path), "samples")


MODULE = """
class Squares:
    held_out = [(9, 81)]
    def __len__(self):
        return 4
    def __getitem__(self, index):
        return {"x": index, "y": index * index}

squares = Squares()

def make():
    return Squares()

class Tokens(Squares):
    held_out = None
    def __getitem__(self, index):
        return {"inputs": [1, 2, 3], "targets": [2, 3, 4]}

class Nest:
    data = squares

empty = []
number = 3
stream = iter([1])
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "own_data_of_a_user.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "own_data_of_a_user", raising=False)
    return "own_data_of_a_user"


@pytest.mark.parametrize("name", ["Squares", "squares", "make"])
def test_an_object_a_class_or_a_function_gives_the_data_set(own: str, name: str) -> None:
    data = open_data(DataOptions(name=f"{own}:{name}"), "samples")
    assert len(data.train) == 4
    assert data.train[3] == {"x": 3, "y": 9}
    assert data.held_out is not None
    assert data.held_out[0] == (9, 81)
    assert (data.vocab_size, data.bytes_per_token, data.tokens_per_sample) == (None, None, None)


def test_a_data_set_of_tokens(own: str) -> None:
    data = open_data(DataOptions(name=f"{own}:Tokens"), "tokens")
    assert data.tokens_per_sample == 3
    assert data.held_out is None
    with pytest.raises(ValueError, match="a dict with 'inputs' and 'targets'"):
        open_data(DataOptions(name=f"{own}:Squares"), "tokens")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("empty", "is empty"),
        ("number", "is a int, not a map-style data set"),
        ("stream", "not a map-style data set: it needs __len__"),
        ("absent", "has no object 'absent'"),
    ],
)
def test_what_is_no_data_set_is_refused(own: str, name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        open_data(DataOptions(name=f"{own}:{name}"), "samples")
