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
    lines, _, table = done.stdout.partition("\n\n")
    figures = [json.loads(line) for line in lines.splitlines()]
    rows = table.splitlines()
    assert done.returncode == (not all(found["ok"] for found in figures)), done.stderr
    assert [found["name"].partition(" / ")[0] for found in figures] == ["draw", "draw at indices", "dropout"]
    for found, row in zip(figures, rows, strict=True):
        assert found["benchmark"] == "draw" and found["value"] > 0
        assert row.startswith(found["name"]) and "at most 1.2" in row
        assert f"| {found['name']} | " in page.read_text()
    assert "torch 2." in page.read_text()


def test_an_unknown_benchmark_is_refused(tmp_path):
    done = run("--only", "nothing")
    assert done.returncode == 2 and "draw" in done.stderr
