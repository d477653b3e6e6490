"""Is an entry counted as it was declared, and is the estimated micro-batch the largest that fits?"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from shardwright.models.entry import Entry, Unit
from shardwright.models.gpt2.entry import ENTRY, PRESETS
from shardwright.trainers.estimate import (
    HEADROOM,
    Portions,
    available_bytes,
    count,
    estimate_micro_batch,
    legal_micro_batches,
    rank_memory,
)
from shardwright.trainers.layout import Layout
from shardwright.trainers.options import OptimizerOptions, TrainOptions
from torch import nn

TINY = PRESETS["tiny"]
SIZES = count(ENTRY, TINY).sizes


def portions(layout: Layout, global_batch: int = 64, **train: Any) -> Portions:
    return Portions(layout, TrainOptions(steps=1, global_batch=global_batch, **train), OptimizerOptions(), 128)


def two_linears() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2))


def test_an_entry_that_says_nothing_is_counted_on_the_meta_device() -> None:
    counted = count(Entry(build=two_linears, loss=lambda network, batch: (0, 0), name="mine"), None)
    assert counted.by == "on the meta device"
    assert counted.sizes.shapes == {
        "network.0.weight": (8, 4),
        "network.0.bias": (8,),
        "network.1.weight": (2, 8),
        "network.1.bias": (2,),
    }


def test_without_torch_such_an_entry_is_refused_in_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shardwright.trainers.estimate.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"mine does not say .* needs torch: pip install 'shardwright\[train\]'"):
        count(Entry(build=two_linears, name="mine"), None)


def test_an_entrys_own_count_is_enough_where_layers_stay_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shardwright.trainers.estimate.find_spec", lambda name: None)
    entry = Entry(
        build="nowhere:nothing",
        parameters=lambda config: 100,
        units=lambda config: (Unit("a", 40), Unit("b", 50)),
    )
    sizes = count(entry, None).sizes
    assert sizes.parameters == 100
    assert sorted(sizes.shapes.values()) == [(10,), (40,), (50,)]


def test_the_catalog_is_counted_without_building() -> None:
    counted = count(replace(ENTRY, build="nowhere:nothing"), TINY, tensor=2)
    assert ENTRY.parameters is not None
    assert counted.sizes.parameters == ENTRY.parameters(TINY)


@given(
    available=st.integers(2**20, 2**28),
    zero=st.sampled_from([0, 3]),
    pipeline=st.sampled_from([1, 2]),
    recompute=st.sampled_from(["none", "full"]),
)
def test_the_estimate_is_the_largest_that_fits(available: int, zero: int, pipeline: int, recompute: str) -> None:
    asked = portions(Layout(zero=zero, shard=4 if zero else 1, pipeline=pipeline), recompute=recompute)
    legal = legal_micro_batches(ENTRY, asked)
    found = estimate_micro_batch(ENTRY, TINY, asked, available)
    peaks = {size: rank_memory(ENTRY, TINY, asked, size, SIZES).peak_bytes for size in legal}
    fitting = [size for size, peak in peaks.items() if peak <= HEADROOM * available]
    assert found == max(fitting, default=1)
    assert list(peaks.values()) == sorted(peaks.values())


def test_a_pipeline_gets_a_micro_batch_for_each_stage() -> None:
    assert legal_micro_batches(ENTRY, portions(Layout(pipeline=4), global_batch=24)) == [1, 2, 3, 4, 6]
    gpipe = portions(Layout(pipeline=4, schedule="gpipe"), global_batch=24)
    assert legal_micro_batches(ENTRY, gpipe)[-1] == 24


def test_a_coupled_objective_is_not_cut() -> None:
    coupled = replace(ENTRY, coupled="batch")
    assert estimate_micro_batch(coupled, TINY, portions(Layout(), global_batch=48), 1) == 48


def test_where_nothing_is_known_the_probe_starts_from_the_whole_share() -> None:
    asked = portions(Layout(replicate=2), global_batch=48)
    assert estimate_micro_batch(ENTRY, TINY, asked, None) == 24
    assert estimate_micro_batch(replace(ENTRY, activations=None), TINY, asked, 2**20) == 24


def test_available_memory_is_the_kernels_word_or_a_containers_limit(tmp_path: Path) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal:  4096 kB\nMemAvailable:  2048 kB\n")
    assert available_bytes(meminfo, tmp_path) == 2048 * 1024
    (tmp_path / "memory.current").write_text("1000\n")
    (tmp_path / "memory.max").write_text("max\n")
    assert available_bytes(meminfo, tmp_path) == 2048 * 1024
    (tmp_path / "memory.max").write_text("5000\n")
    assert available_bytes(meminfo, tmp_path) == 4000
    assert available_bytes(tmp_path / "none", tmp_path) is None


def test_bf16_needs_less_than_fp32_under_zero() -> None:
    peaks = [
        rank_memory(ENTRY, TINY, portions(Layout(zero=3, shard=4), dtype=dtype), 16, SIZES).peak_bytes
        for dtype in ("fp32", "bf16")
    ]
    assert peaks[1] < 0.75 * peaks[0]
