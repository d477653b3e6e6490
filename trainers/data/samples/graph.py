"""How is one graph with a class for each node a data set? Every sample is the whole graph, asking for other nodes.

Nodes are split once: every fourth of each class is known, the others are held out. A training sample asks for the
classes of half of the known nodes, so that several data ranks have different samples and all of them together ask for
each known node equally often. The one held-out sample asks for the nodes whose class no training sample holds.
Features tell nodes apart and say nothing of their class, so what is learned of the unknown nodes comes over the edges
(the transductive setting of Kipf and Welling 2017, Velickovic et al. 2018).

N nodes. A sample is "nodes" float32 [N, N], one-hot; "adjacency" bool [N, N], symmetric, without self-loops; "labels"
int64 [N], -100 where nothing is asked.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..order import Order
from .arrays import Samples

SHOWN = 64  # training samples
KNOWN = 4  # one node in so many of a class
IGNORED = -100


def semi_supervised(adjacency: NDArray[np.bool_], labels: NDArray[np.int64]) -> Samples:
    """Both sides of the task on a graph: adjacency [N, N] and the class of each node, int64 [N]."""
    known = known_nodes(labels)
    asked = np.full((SHOWN, len(labels)), IGNORED, np.int64)
    for sample, half in enumerate(halves(np.flatnonzero(known))):
        asked[sample, half] = labels[half]
    classes = int(labels.max()) + 1
    rest = Samples(graphs(adjacency, np.where(known, IGNORED, labels)[None]), classes=classes)
    return Samples(graphs(adjacency, asked), rest, classes)


def known_nodes(labels: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Nodes whose class the training side may ask for, bool [N]: the first of each class, and every fourth."""
    known = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        known[np.flatnonzero(labels == label)[::KNOWN]] = True
    return known


def halves(nodes: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """SHOWN sets of half of the nodes; two in a row are a permutation cut in the middle: all come equally often."""
    order, found = Order(len(nodes), seed=0), []
    for epoch in range(SHOWN // 2):
        found += np.array_split(nodes[order.samples(epoch * len(nodes), len(nodes))], 2)
    return found


def graphs(adjacency: NDArray[np.bool_], labels: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
    """One graph under several labellings, int64 [S, N]."""
    size = len(adjacency)
    nodes = np.broadcast_to(np.eye(size, dtype=np.float32), (len(labels), size, size))
    return {"nodes": nodes, "adjacency": np.broadcast_to(adjacency, nodes.shape), "labels": labels}
