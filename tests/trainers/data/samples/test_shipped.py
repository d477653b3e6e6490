"""Are the shipped data sets what their files say, split honestly, and the same each time?"""

import sys

import numpy as np
import pytest
from numpy.typing import NDArray
from shardwright.trainers.data.collate import collate
from shardwright.trainers.data.dataset import open_data
from shardwright.trainers.data.samples.arrays import Samples
from shardwright.trainers.data.samples.shipped import SHIPPED, load_shipped
from shardwright.trainers.data.sources import check_source
from shardwright.trainers.options import DataOptions

SIZES = {
    "digits": (1442, 355, {"image": (1, 8, 8), "label": ()}, 10),
    "digits_few_shot": (
        1024,
        256,
        {"support_images": (3, 1, 8, 8), "support_labels": (3,), "query_images": (15, 1, 8, 8), "query_labels": (15,)},
        3,
    ),
    "iris": (120, 30, {"features": (4,), "label": ()}, 3),
    "breast_cancer": (456, 113, {"features": (30,), "label": ()}, 2),
    "sunspots": (209, 36, {"times": (33,), "values": (33,)}, None),
    "karate": (64, 1, {"nodes": (34, 34), "adjacency": (34, 34), "labels": (34,)}, 2),
    "les_miserables": (64, 1, {"nodes": (77, 77), "adjacency": (77, 77), "labels": (77,)}, 5),
}
TYPES = {"label": "int64", "labels": "int64", "support_labels": "int64", "query_labels": "int64", "adjacency": "bool"}


@pytest.fixture(scope="module", params=SHIPPED)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def sides(name: str) -> tuple[Samples, Samples]:
    train = load_shipped(name)
    assert train.held_out is not None
    return train, train.held_out


def rows(images: NDArray[np.float32]) -> set[bytes]:
    """The distinct rows of an array, to be compared."""
    return {row.tobytes() for row in images}


def test_sizes_shapes_and_types(name: str) -> None:
    train, held_out = sides(name)
    assert (len(train), len(held_out), train.shapes, train.classes) == SIZES[name]
    for side in (train, held_out):
        assert {key: str(each.dtype) for key, each in side.arrays.items()} == {
            key: TYPES.get(key, "float32") for key in side.arrays
        }


def test_a_batch_is_its_samples_and_no_view(name: str) -> None:
    train, _ = sides(name)
    indices = np.array([len(train) - 1, 0, 3])
    batch = collate(train, indices)
    for key, tensor in batch.items():
        assert np.array_equal(tensor.numpy(), np.stack([train[int(index)][key] for index in indices]))
        tensor.zero_()
    assert load_shipped(name).identity == train.identity
    with pytest.raises(IndexError):
        train[len(train)]


def test_the_identity_is_that_of_the_content(name: str) -> None:
    train, held_out = sides(name)
    assert len({load_shipped(other).identity for other in SHIPPED}) == len(SHIPPED)
    changed = {key: each.copy() for key, each in held_out.arrays.items()}
    last = next(reversed(changed.values()))
    last.flat[-1] += 1
    assert Samples(train.arrays, Samples(changed)).identity != train.identity


def test_every_fifth_digit_of_a_class_is_held_out() -> None:
    train, held_out = sides("digits")
    share = np.bincount(held_out.arrays["label"]) / (
        np.bincount(train.arrays["label"]) + np.bincount(held_out.arrays["label"])
    )
    assert ((share > 0.19) & (share <= 0.2)).all()
    assert not rows(train.arrays["image"]) & rows(held_out.arrays["image"])
    assert train.arrays["image"].min() == 0.0 and train.arrays["image"].max() == 1.0


@pytest.mark.parametrize("name", ["iris", "breast_cancer"])
def test_features_are_standardised_by_the_training_side(name: str) -> None:
    train, held_out = sides(name)
    assert np.abs(train.arrays["features"].mean(0)).max() < 1e-5
    assert np.abs(train.arrays["features"].std(0) - 1.0).max() < 1e-5
    assert np.abs(held_out.arrays["features"].mean(0)).max() > 1e-3


def test_no_year_of_sunspots_stands_on_both_sides() -> None:
    train, held_out = sides("sunspots")
    assert np.allclose(train.arrays["values"][1:, 0], train.arrays["values"][:-1, 1])
    assert np.allclose(train[0]["times"][[0, 1, -1]], [0.0, 0.1, 3.2])
    known = np.concatenate((train.arrays["values"][:, 0], train.arrays["values"][-1, 1:]))
    later = np.concatenate((held_out.arrays["values"][:, 0], held_out.arrays["values"][-1, 1:]))
    assert (len(known), len(later)) == (241, 68) and abs(known.mean()) < 1e-6 and abs(known.std() - 1) < 1e-6


@pytest.mark.parametrize(("name", "known", "floor"), [("karate", 10, 0.5), ("les_miserables", 22, 0.4364)])
def test_a_graph_asks_on_each_side_for_other_nodes(name: str, known: int, floor: float) -> None:
    train, held_out = sides(name)
    asked, rest = train.arrays["labels"] >= 0, held_out.arrays["labels"][0] >= 0
    assert (asked.sum(1) == known // 2).all() and (asked.sum(0)[asked.any(0)] == len(train) // 2).all()
    assert (asked.any(0) != rest).all() and asked.any(0).sum() == known
    assert len(rows(train.arrays["labels"])) > 50
    classes = train.arrays["labels"].max(0)
    assert ((train.arrays["labels"] == classes) | ~asked).all() and len(
        np.unique(classes[classes >= 0])
    ) == train.classes
    adjacency = train[0]["adjacency"]
    assert (adjacency == adjacency.T).all() and not adjacency.diagonal().any() and (adjacency.sum(0) > 0).all()
    assert np.bincount(held_out.arrays["labels"][0][rest]).max() / rest.sum() == pytest.approx(floor, abs=1e-4)


def test_held_out_tasks_are_of_digits_that_no_training_task_shows() -> None:
    train, held_out = sides("digits_few_shot")
    pixels = load_shipped("digits")
    assert pixels.held_out is not None
    known = {
        image.tobytes(): int(label)
        for side in (pixels, pixels.held_out)
        for image, label in zip(side.arrays["image"], side.arrays["label"], strict=True)
    }
    for side, digits in ((train, {0, 1, 2, 4, 5, 6, 7}), (held_out, {3, 8, 9})):
        shown = set()
        for task in (side[index] for index in range(len(side))):
            support = [known[image.tobytes()] for image in task["support_images"]]
            query = [known[image.tobytes()] for image in task["query_images"]]
            assert [support[label] for label in task["query_labels"]] == query and len(set(support)) == 3
            assert task["support_labels"].tolist() == [0, 1, 2]
            assert len(rows(np.concatenate((task["support_images"], task["query_images"])))) == 18
            shown.add(tuple(support))
        assert {digit for each in shown for digit in each} == digits
        assert len(shown) > (150 if side is train else 5)  # of 210 and 6 orders


def test_a_shipped_data_set_is_opened_by_its_name(name: str) -> None:
    data = open_data(DataOptions(name=name), "samples")
    assert data.identity == load_shipped(name).identity and data.tokens_per_sample is None
    assert data.summary["samples"] == {"train": SIZES[name][0], "held_out": SIZES[name][1]}
    with pytest.raises(ValueError, match=f"data.name = '{name}' gives samples, but the model's entry says data = 'tok"):
        open_data(DataOptions(name=name), "tokens")


def test_a_library_that_is_not_installed_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.delitem(sys.modules, "networkx", raising=False)
    with pytest.raises(ValueError, match=r"'karate' comes inside networkx, which is not installed: .* extra `data`"):
        check_source(DataOptions(name="karate"))


def test_arrays_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"one number of rows, got \{'x': 3, 'y': 2\}"):
        Samples({"x": np.zeros((3, 2)), "y": np.zeros(2)})
    with pytest.raises(ValueError, match="held-out samples have the shapes"):
        Samples({"x": np.zeros((3, 2))}, Samples({"x": np.zeros((3, 1))}))
