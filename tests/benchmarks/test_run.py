"""Does one command measure, print a table and write a page?"""

import json
import subprocess
import sys
from pathlib import Path

RUN = Path(__file__).parents[2] / "benchmarks" / "run.py"


def run(*words: str) -> subprocess.CompletedProcess[str]:
    """benchmarks/run.py, as `make bench` calls it."""
    return subprocess.run([sys.executable, str(RUN), *words], text=True, capture_output=True)


def test_the_figures_of_a_benchmark_come_as_lines_a_table_and_a_page(tmp_path):
    page = tmp_path / "page.md"
    done = run("--only", "draw", "--write", str(page))
    line, _, *table = done.stdout.splitlines()
    found = json.loads(line)
    assert done.returncode == (not found["ok"]), done.stderr
    assert found["benchmark"] == "draw" and found["value"] > 0
    assert len(table) == 1 and table[0].startswith(found["name"]) and "at most 1.2" in table[0]
    assert f"| {found['name']} | " in page.read_text() and "torch 2." in page.read_text()


def test_an_unknown_benchmark_is_refused(tmp_path):
    done = run("--only", "nothing")
    assert done.returncode == 2 and "draw" in done.stderr
