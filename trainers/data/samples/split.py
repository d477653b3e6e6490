"""Which samples are held out, and how are measured values scaled? By rules that draw nothing.

Invariant: every fifth sample of each class is held out, in the order of the data set, so both sides have the classes in
the same proportions and the split is the same everywhere; means and deviations are the training side's alone.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .arrays import Samples

EVERY = 5  # one sample in so many is held out


def held_out(labels: NDArray[Any]) -> NDArray[np.bool_]:
    """Which samples are held out, bool [N], given the class of each, int [N]."""
    chosen = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        chosen[np.flatnonzero(labels == label)[EVERY - 1 :: EVERY]] = True
    return chosen


def labelled(values: str, rows: NDArray[np.float32], labels: NDArray[Any]) -> Samples:
    """Both sides of a data set of rows [N, ...], named `values`, and the class of each, int [N]."""
    apart, labels = held_out(labels), labels.astype(np.int64)
    classes = len(np.unique(labels))
    test = Samples({values: rows[apart], "label": labels[apart]}, classes=classes)
    return Samples({values: rows[~apart], "label": labels[~apart]}, test, classes)


def standardised(features: NDArray[Any], labels: NDArray[Any]) -> NDArray[np.float32]:
    """Features [N, F] less the training side's mean, over its deviation."""
    training = features[~held_out(labels)]
    scaled: NDArray[np.float32] = ((features - training.mean(0)) / training.std(0)).astype(np.float32)
    return scaled
