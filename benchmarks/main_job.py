"""How long does the main job take, and what does it learn? `shardwright run gpt` once, its data packed on the way.

python benchmarks/main_job.py [key=value ...]
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from figure import Figure, report
from shardwright.jobs.events import read
from shardwright.jobs.history import history

SCRIPT = Path(sys.executable).parent / "shardwright"
SECONDS = 240.0
LOSS = 1.9  # nats per byte on text that was never trained on


def main() -> None:
    """Run the job in an empty folder with an empty cache."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    overrides = parser.parse_args().overrides
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        subprocess.run(
            [SCRIPT, "run", "gpt", *overrides],
            cwd=folder,
            env={**os.environ, "XDG_CACHE_HOME": folder},
            check=True,
            stdout=sys.stderr,
        )
        report(figures(time.perf_counter() - start, Path(folder)))


def figures(seconds: float, folder: Path) -> list[Figure]:
    """Total seconds, validation loss with the entropy beside it, and how it is sharded."""
    (run,) = (folder / "runs").iterdir()
    past = history(read(run / "events"))
    entropy = unigram_entropy(folder)
    start = past.last("start")
    workers = start.get("world_size") if start else None
    shown = {"workers": workers, "layout": past.attempts[-1].layout, "steps": past.step}
    loss = past.evals[-1]["loss"]
    return [
        Figure("main_job", "shardwright run gpt, data included", round(seconds, 1), "s", most=SECONDS, detail=shown),
        Figure(
            "main_job",
            f"validation loss (unigram entropy {entropy:.3f})",
            round(loss, 4),
            "nats/byte",
            most=LOSS,
            detail={"unigram_entropy": round(entropy, 4), "bits_per_byte": past.evals[-1].get("bits_per_byte")},
        ),
    ]


def unigram_entropy(cache: Path) -> float:
    """Nats per token of the packed corpus: what a model without context reaches."""
    (manifest,) = (path for path in cache.rglob("manifest.json") if "unigram_entropy" in path.read_text())
    return float(json.loads(manifest.read_text())["unigram_entropy"])


if __name__ == "__main__":
    main()
