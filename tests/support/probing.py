"""Do features say more than pixels? Linear probes fitted on the same few labelled samples of a shipped data set."""

from typing import Any

import numpy as np
import torch
from learning import train
from shardwright.trainers.world import Worker

DRAWS = 5  # choices of the labelled samples that are averaged over


def probe(worker: Worker, name: str, labels: int, **learning: Any) -> dict[str, float]:
    """Train an entry without labels; the held-out accuracy of a probe on its frozen features, and of one on pixels.

    Args:
        name: an entry whose Program has `represent`; labels: samples of each class that a probe is fitted on.
        learning: as in learning.train.
    """
    made = train(worker, name, **learning)
    training = made.source.train.arrays
    held_out = made.source.train.held_out.arrays
    program: Any = made.sharded.program.eval()
    with torch.no_grad():
        features = [program.represent(torch.from_numpy(side["image"])).numpy() for side in (training, held_out)]
    pixels = [side["image"].reshape(len(side["image"]), -1) for side in (training, held_out)]
    answers = training["label"], held_out["label"]
    return {"features": accuracy(*features, *answers, labels), "pixels": accuracy(*pixels, *answers, labels)}


def accuracy(known: Any, unknown: Any, labels: Any, answers: Any, count: int) -> float:
    """Of logistic regression from standardised values, over choices of `count` samples of each class."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    found = []
    for draw in range(DRAWS):
        rows = np.concatenate(
            [np.flatnonzero(labels == label)[draw * count : (draw + 1) * count] for label in np.unique(labels)]
        )
        fitted = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)).fit(known[rows], labels[rows])
        found.append(fitted.score(unknown, answers))
    return float(np.mean(found))
