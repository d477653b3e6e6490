"""Does a step read the same global batch on any number of ranks, and from any start?"""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from shardwright.models.draw import keys
from shardwright.trainers.data.loader import Batch, Loader
from shardwright.trainers.data.order import InTurn, Order


class Numbers:
    """Item i is i, as an array, a tensor and a number."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"array": np.full(2, index), "tensor": torch.full((2, 3), float(index)), "number": index}


def loader(size: int = 37, **changes: Any) -> Loader:
    sizes = {"seed": 5, "global_batch": 12, "data_rank": 0, "data_degree": 1, "micro_batch": 12} | changes
    return Loader(Numbers(size), Order(size, 5), **sizes)


def whole(batches: list[Batch]) -> Batch:
    return {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}


@settings(deadline=None)
@given(size=st.integers(1, 50), step=st.integers(0, 1000), degree=st.sampled_from([1, 2, 3, 4, 6, 12]), data=st.data())
def test_ranks_and_micro_batches_divide_one_global_batch(
    size: int, step: int, degree: int, data: st.DataObject
) -> None:
    share = 12 // degree
    micro = data.draw(st.sampled_from([n for n in range(1, share + 1) if share % n == 0]))
    one = whole(loader(size).load(step))
    ranks = [loader(size, data_rank=rank, data_degree=degree, micro_batch=micro) for rank in range(degree)]
    parts = [part for rank in ranks for part in rank.load(step)]
    assert [len(part["sample"]) for part in parts] == [micro] * (12 // micro)
    several = whole(parts)
    assert one.keys() == several.keys()
    assert all(torch.equal(one[name], several[name]) for name in one)


def test_a_batch_holds_the_values_the_sample_and_its_key() -> None:
    (batch,) = loader().load(2)
    assert {name: (tuple(rows.shape), rows.dtype) for name, rows in batch.items()} == {
        "array": ((12, 2), torch.int64),
        "tensor": ((12, 2, 3), torch.float32),
        "number": ((12,), torch.int64),
        "sample": ((12,), torch.int64),
        "key": ((12, 2), torch.int32),
    }
    assert torch.equal(batch["key"], keys(5, 2, batch["sample"]))
    assert torch.equal(batch["sample"] % 37, batch["number"])
    assert torch.equal(batch["array"][:, 1], batch["number"])
    assert torch.equal(batch["tensor"][:, 1, 2].long(), batch["number"])


def test_every_sample_comes_once_an_epoch_under_its_own_number() -> None:
    found = torch.cat([batch["sample"] for step in range(37) for batch in loader().load(step)])  # 12 epochs
    assert sorted(found.tolist()) == list(range(12 * 37))
    assert found[:37].max() < 37 <= found[37:].min()


def test_held_out_samples_come_in_turn() -> None:
    held_out = Loader(Numbers(10), InTurn(10), 0, 4, 1, 2, 2)
    assert [held_out.load(step)[0]["number"].tolist() for step in range(3)] == [[2, 3], [6, 7], [0, 1]]
    assert held_out.whole_batches == 2
    assert Loader(Numbers(3), InTurn(3), 0, 4, 0, 1, 4).whole_batches == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data_degree": 5}, "global_batch = 12 does not divide among 5 data ranks"),
        (
            {"data_degree": 2, "micro_batch": 4},
            r"micro_batch = 4 does not divide a rank's 6 samples \(legal: 1, 2, 3, 6\)",
        ),
        ({"micro_batch": 0}, "micro_batch = 0"),
        ({"data_rank": 1}, "data rank 1 is not one of 1"),
    ],
)
def test_sizes_that_do_not_divide_are_refused(changes: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        loader(**changes)
    with pytest.raises(ValueError, match="an order of 3 samples does not fit a data set of 4"):
        Loader(Numbers(4), Order(3, 0), 0, 1, 0, 1, 1)


def load(items: list[Any]) -> Batch:
    (batch,) = Loader(items, InTurn(len(items)), 0, len(items), 0, 1, len(items)).load(0)
    return {name: rows for name, rows in batch.items() if name not in ("sample", "key")}


def test_tuples_and_single_values_are_named_by_their_place() -> None:
    pairs = load([(np.float32(1), 2), (np.float32(3), 4)])
    assert {name: rows.tolist() for name, rows in pairs.items()} == {"0": [1.0, 3.0], "1": [2, 4]}
    assert load([torch.ones(2), torch.zeros(2)])["0"].tolist() == [[1, 1], [0, 0]]


@pytest.mark.parametrize(
    ("items", "message"),
    [
        ([{"x": [1]}, {"x": [1, 2]}], r"'x' of sample 0 has shape \[1\], but \[2\] of sample 1"),
        ([{"x": 1}, {"y": 1}], r"sample 0 holds \['x'\], but sample 1 \['y'\]"),
        ([{"x": "text"}], "'x' of a sample is no array, tensor or number"),
        ([{"key": 1}], "must not name a value key"),
    ],
)
def test_items_that_make_no_batch_are_refused(items: list[Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load(items)
