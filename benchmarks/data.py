"""How fast is text packed on one core, and what does the loader cost a step?

Judged is the core's own time, so that other work on the machine does not count; wall time stands in the detail.

python benchmarks/data.py [--runs 5] [--megabytes 64]
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import NamedTuple

import torch
from figure import Figure, report, spread
from shardwright.trainers.data.dataset import packed_data
from shardwright.trainers.data.loader import Loader
from shardwright.trainers.data.order import Order
from shardwright.trainers.data.pack import prepare
from shardwright.trainers.data.sources import find_files
from shardwright.trainers.options import DataOptions

STEP = 0.1  # seconds of the step that the loader is compared with
LOADS = 100  # steps loaded in one measurement


class Spent(NamedTuple):
    """Seconds of one call: of this process on the core, and on the wall's clock."""

    core: float
    wall: float


def spent(call: Callable[[], object]) -> Spent:
    """What one call takes."""
    core, wall = time.process_time(), time.perf_counter()
    call()
    return Spent(time.process_time() - core, time.perf_counter() - wall)


def write_corpora(folder: Path, size: int) -> Iterator[DataOptions]:
    """The standard library's sources, repeated up to `size` bytes, as one text file and as jsonl rows."""
    texts = [path.read_text(errors="replace") for _, path in find_files(DataOptions())]
    copies = -(-size // sum(map(len, texts)))
    rows = [f"# copy {copy}\n{text}" for copy in range(copies) for text in texts]
    (folder / "corpus.txt").write_text("".join(rows))
    yield DataOptions(name="text", path=str(folder / "corpus.txt"))
    (folder / "corpus.jsonl").write_text("".join(json.dumps({"text": row}) + "\n" for row in rows))
    yield DataOptions(name="jsonl", path=str(folder / "corpus.jsonl"))


def pack_speed(options: DataOptions, runs: int) -> Figure:
    """MB of source files a second, from nothing: hashing, splitting, encoding, writing and publishing."""
    size = sum(path.stat().st_size for _, path in find_files(options)) / 1e6
    times = []
    for _ in range(runs):
        with tempfile.TemporaryDirectory() as cache:
            fresh = replace(options, cache=cache)
            times.append(spent(lambda fresh=fresh: prepare(fresh, workers=1)))
    speeds = [size / time.core for time in times]
    detail = {"core": spread(speeds, 1), "wall": spread([size / time.wall for time in times], 1), "megabytes": size}
    return Figure("data", f"packing {options.name} with bytes, one core", median(speeds), "MB/s", None, 20.0, detail)


def loader_cost(cache: str, global_batch: int, sequence_length: int, runs: int) -> Figure:
    """The time that one step's batch takes to load, as a share of a step of 100 ms."""
    data = packed_data(prepare(DataOptions(cache=cache), workers=1), sequence_length)
    loader = Loader(data.train, Order(len(data.train), 0), 0, global_batch, 0, 1, global_batch)
    loader.load(0)
    times = [spent(lambda: [loader.load(step) for step in range(LOADS)]) for _ in range(runs)]
    core = [time.core / LOADS * 1e3 for time in times]
    detail = {"core_ms": spread(core), "wall_ms": spread([time.wall / LOADS * 1e3 for time in times])}
    name = f"loader, {global_batch} samples of {sequence_length} tokens, share of a step of 100 ms"
    return Figure("data", name, median(core) / 1e3 / STEP, "of a step", 0.01, None, detail)


def main() -> None:
    """Measure on one core."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--megabytes", type=int, default=64)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    with tempfile.TemporaryDirectory() as folder:
        sources = [DataOptions(), *write_corpora(Path(folder), asked.megabytes * 1_000_000)]
        figures = [pack_speed(options, asked.runs) for options in sources]
        figures += [loader_cost(folder, 32, length, asked.runs) for length in (128, 1024)]
    report(figures)


if __name__ == "__main__":
    main()
