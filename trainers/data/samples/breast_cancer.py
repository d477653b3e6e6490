"""Breast tumours: 569, of which 212 malignant (label 0) and 357 benign (1); the majority class guesses 62.7 %.

W. N. Street, W. H. Wolberg, O. L. Mangasarian, "Nuclear feature extraction for breast tumor diagnosis" (1993), as
scikit-learn ships it. A sample is "features" float32 [30] (measures of cell nuclei, standardised) and "label" int64 in
[0, 2). 456 train, 113 are held out.
"""

from .arrays import Samples
from .split import labelled, standardised


def load() -> Samples:
    """The training side; the held-out side is its `held_out`."""
    from sklearn.datasets import load_breast_cancer

    features, labels = load_breast_cancer(return_X_y=True)
    return labelled("features", standardised(features, labels), labels)
