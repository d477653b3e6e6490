"""What does layout-proof dropout cost beside torch's own? Forward, 131k elements; one JSON line, medians.

Both alternate in one run. python benchmarks/draw.py [--runs 300]
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable

import torch
from shardwright.models.draw import draw, dropout, keys
from torch.nn import functional as F

TARGET = 1.2  # times F.dropout
SHAPE = (8, 128, 128)


def milliseconds(call: Callable[[], object]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    call()
    return (time.perf_counter() - start) * 1e3


def measure(runs: int) -> dict[str, object]:
    """Median times, and the median of the ratios of neighbouring calls."""
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
    ratio = statistics.median(ours / theirs for ours, theirs in zip(times["ours"], times["torch"], strict=True))
    return {
        "benchmark": "dropout",
        "elements": x.numel(),
        "milliseconds": {name: round(statistics.median(values), 3) for name, values in times.items()},
        "ratio": round(ratio, 3),
        "target": TARGET,
        "ok": ratio <= TARGET,
    }


def main() -> None:
    """Print the figure; leave with 1 when it misses its target."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=300)
    torch.set_num_threads(1)
    figure = measure(parser.parse_args().runs)
    print(json.dumps(figure))
    raise SystemExit(not figure["ok"])


if __name__ == "__main__":
    main()
