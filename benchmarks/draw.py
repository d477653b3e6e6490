"""What does layout-proof randomness cost beside torch's own dropout? Forward, 131k elements.

Drawn numbers, a part of them at chosen indices, and dropout by them alternate with F.dropout in one run of one thread.

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


def measure(runs: int) -> list[Figure]:
    """Of each of ours the median of the ratios to the F.dropout beside it."""
    x, key = torch.randn(SHAPE), keys(0, 0, torch.arange(SHAPE[0]))
    _, tokens, features = SHAPE
    chosen = torch.cat((torch.arange(tokens // 2), torch.arange(tokens // 2) + 3 * tokens // 2))  # of a context rank
    calls = {
        "F.dropout": lambda: F.dropout(x, 0.1),
        "draw": lambda: draw(key, "benchmark", SHAPE[1:]),
        "draw at indices": lambda: draw(key, "benchmark", SHAPE[1:], (chosen, 0), (2 * tokens, features)),
        "dropout": lambda: dropout(x, 0.1, key, "benchmark"),
    }
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(runs):
        for name, call in calls.items():
            times[name].append(milliseconds(call))
    return [figure(name, times[name], times["F.dropout"], x.numel()) for name in calls if name != "F.dropout"]


def figure(name: str, ours: list[float], torchs: list[float], elements: int) -> Figure:
    """One kind of call beside torch's."""
    ratios = spread([mine / theirs for mine, theirs in zip(ours, torchs, strict=True)])
    detail = ratios | {"milliseconds": {"torch": spread(torchs), "ours": spread(ours)}}
    return Figure("draw", f"{name} / F.dropout, {elements} elements", ratios["median"], "x", TARGET, detail=detail)


def main() -> None:
    """Print the figures; leave with 1 when one misses its target."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=300)
    torch.set_num_threads(1)
    report(measure(parser.parse_args().runs))


if __name__ == "__main__":
    main()
