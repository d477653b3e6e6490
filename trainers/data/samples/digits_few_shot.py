"""Tasks of three digits, one image of each to learn from and five of each to be asked about: 1-shot 3-way.

What MAML (Finn et al. 2017) and its kin learn from. The classes of held-out tasks are met in no training task:
training tasks take three of the digits 0, 1, 2, 4, 5, 6, 7, in any order, which are then called 0, 1 and 2; held-out
tasks are 3, 8 and 9, which look much alike, in any order. The support image that is nearest by pixels guesses 66 % of
their queries right, chance 33 %.

A sample is a task: "support_images" float32 [3, 1, 8, 8], "support_labels" int64 [3], "query_images" float32
[15, 1, 8, 8], "query_labels" int64 [15]. 1,024 tasks train, 256 are held out.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..order import Order
from .arrays import Samples
from .digits import read

WAYS, SHOTS, QUERIES = 3, 1, 5  # classes of a task; images of a class to learn from, and to be asked about
TRAINING, HELD_OUT = (0, 1, 2, 4, 5, 6, 7), (3, 8, 9)  # digits
TASKS = (1024, 256)  # of training, held out


def load() -> Samples:
    """The training side; the held-out side is its `held_out`."""
    images, labels = read()
    members = [np.flatnonzero(labels == digit) for digit in range(10)]
    test = tasks(images, [members[digit] for digit in HELD_OUT], TASKS[1])
    return Samples(tasks(images, [members[digit] for digit in TRAINING], TASKS[0]), Samples(test, classes=WAYS), WAYS)


def tasks(images: NDArray[np.float32], members: list[NDArray[np.int64]], count: int) -> dict[str, NDArray[Any]]:
    """Tasks from the images [N, 1, 8, 8] of some classes, given the members of each."""
    chosen = firsts(len(members), 0, count, WAYS)
    drawn = [each[firsts(len(each), 1 + seed, count, SHOTS + QUERIES)] for seed, each in enumerate(members)]
    found = np.stack(drawn)[chosen, np.arange(count)[:, None]]  # [tasks, WAYS, SHOTS + QUERIES]
    support, query = (part.reshape(count, -1) for part in np.split(found, [SHOTS], axis=2))
    return {
        "support_images": images[support],
        "support_labels": called(SHOTS, count),
        "query_images": images[query],
        "query_labels": called(QUERIES, count),
    }


def firsts(size: int, seed: int, rows: int, count: int) -> NDArray[np.int64]:
    """The first `count` of another permutation of `size` things in each row."""
    return Order(size, seed).samples(0, rows * size).reshape(rows, size)[:, :count]


def called(images: int, count: int) -> NDArray[np.int64]:
    """What the classes of each task are called, for some images of each."""
    return np.tile(np.repeat(np.arange(WAYS), images), (count, 1))
