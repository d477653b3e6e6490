"""How fast is text packed on one core, and what does the loader cost a step? One JSON line a figure, medians.

python benchmarks/data.py [--runs 5] [--megabytes 64]
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from shardwright.trainers.data.dataset import packed_data
from shardwright.trainers.data.loader import Loader
from shardwright.trainers.data.order import Order
from shardwright.trainers.data.pack import prepare
from shardwright.trainers.data.sources import find_files
from shardwright.trainers.options import DataOptions

PACK_TARGET = 20.0  # MB/s on one core
STEP = 0.1  # seconds of the step that the loader is compared with
LOADER_TARGET = 0.01  # of a step


def seconds(call: Callable[[], object]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def write_corpora(folder: Path, size: int) -> dict[str, Path]:
    """The standard library's sources, repeated up to `size` bytes, as one text file and as jsonl rows."""
    texts = [path.read_text(errors="replace") for _, path in find_files(DataOptions())]
    paths = {"text": folder / "corpus.txt", "jsonl": folder / "corpus.jsonl"}
    with paths["text"].open("w") as text, paths["jsonl"].open("w") as rows:
        copy = 0
        while text.tell() < size:
            for content in texts:
                text.write(f"# copy {copy}\n{content}")
                rows.write(json.dumps({"text": f"# copy {copy}\n{content}"}) + "\n")
            copy += 1
    return paths


def pack_speed(options: DataOptions, runs: int) -> dict[str, object]:
    """MB of source files a second, from nothing: hashing, splitting, encoding, writing and publishing."""
    speeds = []
    for _ in range(runs):
        with tempfile.TemporaryDirectory() as cache:
            fresh = DataOptions(name=options.name, path=options.path, cache=cache)
            start = time.perf_counter()
            packed = prepare(fresh, workers=1)
            speeds.append(packed.manifest["source"]["bytes"] / 1e6 / (time.perf_counter() - start))
    median = statistics.median(speeds)
    return {
        "benchmark": "pack",
        "source": options.name,
        "megabytes": round(packed.manifest["source"]["bytes"] / 1e6, 1),
        "runs": [round(speed, 1) for speed in speeds],
        "megabytes_per_second": round(median, 1),
        "target": PACK_TARGET,
        "ok": median >= PACK_TARGET,
    }


def loader_cost(cache: str, global_batch: int, sequence_length: int, runs: int) -> dict[str, object]:
    """Milliseconds to load one step's batch, and its share of a step of 100 ms."""
    data = packed_data(prepare(DataOptions(cache=cache), workers=1), sequence_length)
    loader = Loader(data.train, Order(len(data.train), 0), 0, global_batch, 0, 1, global_batch)
    loader.load(0)
    times = [seconds(lambda: [loader.load(step) for step in range(100)]) / 100 for _ in range(runs)]
    median = statistics.median(times)
    return {
        "benchmark": "loader",
        "global_batch": global_batch,
        "sequence_length": sequence_length,
        "milliseconds": round(median * 1e3, 3),
        "share_of_step": round(median / STEP, 4),
        "target": LOADER_TARGET,
        "ok": median / STEP < LOADER_TARGET,
    }


def main() -> None:
    """Print the figures; leave with 1 when one misses its target."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--megabytes", type=int, default=64)
    asked = parser.parse_args()
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    figures = []
    with tempfile.TemporaryDirectory() as folder:
        paths = write_corpora(Path(folder), asked.megabytes * 1_000_000)
        sources = [DataOptions(), *(DataOptions(name=kind, path=str(path)) for kind, path in paths.items())]
        for options in sources:
            figures.append(pack_speed(options, asked.runs))
            print(json.dumps(figures[-1]), flush=True)
        for batch, length in ((32, 128), (32, 1024)):
            figures.append(loader_cost(folder, batch, length, asked.runs))
            print(json.dumps(figures[-1]), flush=True)
    raise SystemExit(not all(figure["ok"] for figure in figures))


if __name__ == "__main__":
    main()
