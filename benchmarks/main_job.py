"""How long does the main job take, and what does it learn? `shardwright run gpt` once, its data packed on the way.

python benchmarks/main_job.py [key=value ...]
"""

import argparse
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
    start, data, final = past.last("start"), past.last("data"), past.evals[-1]
    if start is None or data is None:
        raise RuntimeError(f"the run wrote no events: {run}")
    entropy = data["unigram_entropy"]  # what a model without context reaches
    shown = {"workers": start["world_size"], "layout": past.attempts[-1].layout, "steps": past.step}
    learnt = {"unigram_entropy": round(entropy, 4), "bits_per_byte": round(final["bits_per_byte"], 4)}
    title = f"validation loss (unigram entropy {entropy:.3f})"
    return [
        Figure("main_job", "shardwright run gpt, data included", round(seconds, 1), "s", most=SECONDS, detail=shown),
        Figure("main_job", title, round(final["loss"], 4), "nats/byte", most=LOSS, detail=learnt),
    ]


if __name__ == "__main__":
    main()
