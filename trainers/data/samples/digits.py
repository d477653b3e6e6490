"""Handwritten digits: 1,797 images of 8 x 8 pixels from 43 writers, ten classes; 1,442 train, 355 are held out.

From the optical recognition data set of E. Alpaydin and C. Kaynak (UCI, 1998), as scikit-learn ships it. A sample is
"image" float32 [1, 8, 8] in [0, 1] (0 is paper) and "label" int64 in [0, 10). Every fifth image of each class is held
out; the writers are not known, so each may stand on both sides.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .arrays import Samples
from .split import labelled

INK = 16  # the largest value of a pixel


def load() -> Samples:
    """The training side; the held-out side is its `held_out`."""
    return labelled("image", *read())


def read() -> tuple[NDArray[np.float32], NDArray[Any]]:
    """All images, float32 [N, 1, 8, 8], and their classes, int [N]."""
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    return (pixels / INK).astype(np.float32).reshape(-1, 1, 8, 8), labels
