"""Les Miserables: 77 characters, 254 pairs that appear in a chapter together; to which of five circles belongs each?

D. E. Knuth, "The Stanford GraphBase" (1993), as networkx ships it. The book gives no classes: the circles are the
communities of largest modularity by how often two meet (A. Clauset, M. Newman, C. Moore, "Finding community structure
in very large networks", 2004), and a model sees only who meets whom. The largest holds 43 %. Samples as graph.py says:
22 characters are known, held out are the other 55.
"""

import numpy as np

from .arrays import Samples
from .graph import semi_supervised


def load() -> Samples:
    """The training side; the held-out side is its `held_out`."""
    import networkx

    book = networkx.les_miserables_graph()
    circles = networkx.community.greedy_modularity_communities(book, weight="weight")
    number = {character: circle for circle, members in enumerate(circles) for character in members}
    labels = np.array([number[character] for character in book], np.int64)
    return semi_supervised(networkx.to_numpy_array(book, weight=None) > 0, labels)
