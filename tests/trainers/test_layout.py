"""Ranks and coordinates, for every factorisation; the grammar of strategies."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from shardwright.models.catalog import configure, find
from shardwright.trainers.layout import AXES, Layout, parse_strategy, resolve
from shardwright.trainers.legal import refusal
from shardwright.trainers.options import ParallelOptions

degrees = st.integers(1, 4)
layouts = st.builds(Layout, zero=st.integers(1, 3), pipeline=degrees, replicate=degrees, shard=degrees, tensor=degrees)


@given(layouts)
def test_rank_and_place_are_inverse(layout: Layout) -> None:
    places = [layout.place(rank) for rank in range(layout.world_size)]
    assert [layout.rank(place) for place in places] == list(range(layout.world_size))
    assert len(set(places)) == layout.world_size


@given(layouts)
def test_tensor_is_the_fastest_axis_and_pipeline_the_slowest(layout: Layout) -> None:
    inner = layout.world_size // layout.pipeline
    assert [layout.place(rank).tensor for rank in range(layout.world_size)] == [
        rank % layout.tensor for rank in range(layout.world_size)
    ]
    assert [layout.place(rank).pipeline for rank in range(layout.world_size)] == [
        rank // inner for rank in range(layout.world_size)
    ]


@given(layouts)
def test_each_data_rank_has_one_copy_of_the_model(layout: Layout) -> None:
    readers = [layout.data_rank(rank) for rank in range(layout.world_size)]
    assert all(readers.count(share) == layout.pipeline * layout.tensor for share in range(layout.data))


def test_rank_outside_the_world_is_refused() -> None:
    with pytest.raises(ValueError, match="rank 4 is outside a world of 4"):
        Layout(zero=1, shard=4).place(4)


def test_shard_without_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="shard=2 needs zero"):
        Layout(shard=2)


@pytest.mark.parametrize(
    ("text", "layout"),
    [
        ("ddp", Layout(replicate=2)),
        ("ddpx4", Layout(replicate=4)),
        ("zero1", Layout(zero=1, shard=2)),
        ("zero3x4", Layout(zero=3, shard=4)),
        ("tensor2", Layout(tensor=2)),
        ("pipeline4", Layout(pipeline=4)),
        ("ddp_zero2x4", Layout(zero=2, replicate=2, shard=4)),
        ("zero3x2_tensor2_pipeline2", Layout(zero=3, shard=2, tensor=2, pipeline=2)),
    ],
)
def test_strategy_names(text: str, layout: Layout) -> None:
    assert parse_strategy(text) == layout


@pytest.mark.parametrize("text", ["", "zero4", "ddp2", "tensorx2", "pipeline0x", "zero1_", "Zero1", "zero1-tensor2"])
def test_other_words_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not one of ddp"):
        parse_strategy(text)


def test_an_axis_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="names the shard axis twice"):
        parse_strategy("zero1_zero3")


@given(layouts, st.sampled_from(AXES))
def test_auto_finds_the_missing_degree(layout: Layout, axis: str) -> None:
    options = ParallelOptions(zero=layout.zero, **{**layout.degrees, axis: "auto"})
    assert resolve(options, layout.world_size) == layout


@given(layouts, st.integers(1, 300))
def test_degrees_multiply_to_the_workers(layout: Layout, workers: int) -> None:
    options = ParallelOptions(zero=layout.zero, **layout.degrees)
    if workers == layout.world_size:
        assert resolve(options, workers).world_size == workers
    else:
        with pytest.raises(ValueError, match=f"but workers={workers}"):
            resolve(options, workers)


def test_two_auto_degrees_are_refused() -> None:
    with pytest.raises(ValueError, match="only one degree may be"):
        resolve(ParallelOptions(replicate="auto", tensor="auto"), 4)


def test_an_impossible_split_is_said_in_a_sentence() -> None:
    entry = find("gpt2")
    config = configure(entry, "tiny", {})
    assert refusal(entry, config, Layout(tensor=2, pipeline=2)) == ""
    assert "tensor=3" in refusal(entry, config, Layout(tensor=3))
    assert "pipeline=7" in refusal(entry, config, Layout(pipeline=7))
