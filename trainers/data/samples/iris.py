"""Iris flowers: 150 of three species, 50 each; 120 train, 30 are held out. The majority class guesses one in three.

R. A. Fisher, "The use of multiple measurements in taxonomic problems" (1936), as scikit-learn ships it. A sample is
"features" float32 [4] (length and width of sepal and petal, standardised) and "label" int64 in [0, 3).
"""

from .arrays import Samples
from .split import labelled, standardised


def load() -> Samples:
    """The training side; the held-out side is its `held_out`."""
    from sklearn.datasets import load_iris

    features, labels = load_iris(return_X_y=True)
    return labelled("features", standardised(features, labels), labels)
