"""What are all figures? Runs the benchmarks one after the other, prints their lines and one table.

Each is a process of its own, so that none warms or slows another. Leaves with 1 when a figure misses its bound, or a
benchmark fails; then no page is written.

python benchmarks/run.py [--only NAME ...] [--write docs/benchmarks.md]
"""

import argparse
import subprocess
import sys
from pathlib import Path

from figure import Figure, from_line
from page import page, table

HERE = Path(__file__).parent
BENCHMARKS = ("start", "step", "recovery", "main_job", "memory", "pipeline", "data", "draw")


def measure(name: str) -> tuple[list[Figure], bool]:
    """The figures of one benchmark, printed as they come, and whether it came to its end."""
    figures = []
    print(f"--- {name}", file=sys.stderr, flush=True)
    with subprocess.Popen([sys.executable, HERE / f"{name}.py"], stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout or ():
            print(line, end="", flush=True)
            figures.append(from_line(line))
    return figures, bool(figures) and process.returncode == any(figure.ok is False for figure in figures)


def main() -> None:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=BENCHMARKS, default=BENCHMARKS, metavar="NAME")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="write the figures as Markdown")
    asked = parser.parse_args()
    found = {name: measure(name) for name in asked.only}
    figures = [figure for some, _ in found.values() for figure in some]
    print(f"\n{table(figures)}")
    if failed := [name for name, (_, whole) in found.items() if not whole]:
        sys.exit(f"failed: {', '.join(failed)}")
    if asked.write:
        asked.write.write_text(page(figures, HERE))
    sys.exit(any(figure.ok is False for figure in figures))


if __name__ == "__main__":
    main()
