"""Sunspots: yearly activity from 1700 to 2008 in windows of 33 years, three cycles; held out is what follows 1940.

The numbers of SIDC Brussels, as statsmodels ships them (309 years). A sample is "times" float32 [T], decades since the
window's first year, and "values" float32 [T], standardised by the years up to 1940. Windows begin in every year, and no
year stands on both sides.
"""

import numpy as np
from numpy.typing import NDArray

from .arrays import Samples

WINDOW = 33  # years
LAST = 1940  # year of training


def load() -> Samples:
    """The training side; the held-out side is its `held_out`."""
    from statsmodels.datasets import sunspots

    table = sunspots.load_pandas().data
    years, activity = table["YEAR"].to_numpy(np.float64), table["SUNACTIVITY"].to_numpy(np.float64)
    known = activity[years <= LAST]
    values = (activity - known.mean()) / known.std()
    return Samples(windows(values[years <= LAST]), Samples(windows(values[years > LAST])))


def windows(values: NDArray[np.float64]) -> dict[str, NDArray[np.float32]]:
    """Every WINDOW neighbouring years of a series."""
    rows = np.lib.stride_tricks.sliding_window_view(values.astype(np.float32), WINDOW).copy()
    times = np.tile((np.arange(WINDOW) / 10).astype(np.float32), (len(rows), 1))
    return {"times": times, "values": rows}
