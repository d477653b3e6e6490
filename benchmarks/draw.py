"""What does layout-proof dropout cost beside torch's own? Forward, 131k elements.

Both alternate in one run of one thread; the draws alone are timed too.

python benchmarks/draw.py [--runs 300]
"""

import argparse
import time
from collections.abc import Callable

import torch
from figure import Figure, report, spread
from shardwright.models.draw import draw, dropout, keys
from torch.nn import functional as F

TARGET = 1.2  # times F.dropout
SHAPE = (8, 128, 128)


def milliseconds(call: Callable[[], object]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    call()
    return (time.perf_counter() - start) * 1e3


def measure(runs: int) -> Figure:
    """The median of the ratios of neighbouring calls."""
    x, key = torch.randn(SHAPE), keys(0, 0, torch.arange(SHAPE[0]))
    calls = {
        "torch": lambda: F.dropout(x, 0.1),
        "ours": lambda: dropout(x, 0.1, key, "benchmark"),
        "draw": lambda: draw(key, "benchmark", SHAPE[1:]),
    }
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(runs):
        for name, call in calls.items():
            times[name].append(milliseconds(call))
    ratios = spread([ours / theirs for ours, theirs in zip(times["ours"], times["torch"], strict=True)])
    detail = ratios | {"milliseconds": {name: spread(values) for name, values in times.items()}}
    return Figure("draw", f"dropout / F.dropout, {x.numel()} elements", ratios["median"], "x", TARGET, detail=detail)


def main() -> None:
    """Print the figure; leave with 1 when it misses its target."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=300)
    torch.set_num_threads(1)
    report([measure(parser.parse_args().runs)])


if __name__ == "__main__":
    main()
