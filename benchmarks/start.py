"""How long does a person wait for the command line? The console script itself, from nothing; medians of wall time.

python benchmarks/start.py [--runs 15]
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from figure import Figure, report, spread

SCRIPT = Path(sys.executable).parent / "shardwright"
COMMANDS = {("--help",): 0.3, ("run", "gpt", "--dry-run"): 1.0}  # words -> most seconds


def seconds(words: tuple[str, ...], folder: str) -> float:
    """Wall time of one call, in a folder that holds no run."""
    start = time.perf_counter()
    subprocess.run([SCRIPT, *words], cwd=folder, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def main() -> None:
    """Alternate the commands and report the medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=15)
    runs = parser.parse_args().runs
    times: dict[tuple[str, ...], list[float]] = {words: [] for words in COMMANDS}
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(runs + 1):
            for words in COMMANDS:
                taken = seconds(words, folder)
                if turn:  # the first call of all reads files from disk and writes byte code
                    times[words].append(taken)
    report([figure(words, times[words]) for words in COMMANDS])


def figure(words: tuple[str, ...], times: list[float]) -> Figure:
    """The median beside its bound."""
    found = spread(times)
    return Figure("start", f"shardwright {' '.join(words)}", found["median"], "s", most=COMMANDS[words], detail=found)


if __name__ == "__main__":
    main()
