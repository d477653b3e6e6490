"""The karate club: 34 members, 78 friendships; into which of two clubs did each go? The majority class guesses half.

W. W. Zachary, "An information flow model for conflict and fission in small groups" (1977), as networkx ships it.
Samples as graph.py says: 10 members are known, held out are the other 24.
"""

import numpy as np

from .arrays import Samples
from .graph import semi_supervised


def load() -> Samples:
    """The training side; the held-out side is its `held_out`."""
    import networkx

    club = networkx.karate_club_graph()
    went = np.array([club.nodes[member]["club"] == "Officer" for member in club], np.int64)
    return semi_supervised(networkx.to_numpy_array(club, weight=None) > 0, went)
