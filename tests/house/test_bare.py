"""What does a person get without extras? A small environment without torch that still answers."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

MEGABYTE = 1e6
CONSUMER = """\
import shardwright as sw

entry: sw.Entry = sw.Entry(build="package.model:build")
"""


@pytest.fixture(scope="module")
def bare(wheel: Path, root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new environment with the wheel and what it declares, at the locked versions."""
    folder = tmp_path_factory.mktemp("bare")
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    pip = [folder / "bin" / "python", "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    done = subprocess.run([*pip, "--constraint", root / "lock.txt", wheel], text=True, capture_output=True)
    if done.returncode and not os.environ.get("CI"):
        pytest.skip(f"no package index answers here: {done.stderr.strip().splitlines()[-1]}")
    assert done.returncode == 0, done.stderr
    return folder


def answer(bare: Path, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """What a command of the bare environment says, called outside the checkout."""
    return subprocess.run([bare / "bin" / arguments[0], *arguments[1:]], cwd=cwd, text=True, capture_output=True)


def test_it_is_smaller_than_450_megabytes(bare: Path) -> None:
    size = sum(path.lstat().st_size for path in bare.rglob("*") if path.is_file() and not path.is_symlink())
    assert size < 450 * MEGABYTE, f"the bare install takes {size / MEGABYTE:.0f} MB"


def test_it_has_no_torch(bare: Path, tmp_path: Path) -> None:
    asked = "from importlib.util import find_spec as f; print([n for n in ('torch', 'ray', 'kubernetes') if f(n)])"
    assert answer(bare, "python", "-c", asked, cwd=tmp_path).stdout == "[]\n"


@pytest.mark.parametrize("verb", ["--help", "models", "config gpt", "config --schema", "plan gpt", "run gpt --dry-run"])
def test_a_verb_answers(verb: str, bare: Path, tmp_path: Path) -> None:
    done = answer(bare, "shardwright", *verb.split(), cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.strip() and not done.stderr
    assert not list(tmp_path.iterdir())


def test_a_type_checker_finds_the_types(bare: Path, root: Path, tmp_path: Path) -> None:
    """`py.typed` is read only where a package is installed, so this checks that it is."""
    consumer = tmp_path / "consumer.py"
    consumer.write_text(CONSUMER)
    mypy = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", root / ".mypy_cache"]
    done = subprocess.run(
        [*mypy, "--python-executable", bare / "bin" / "python", consumer], cwd=tmp_path, text=True, capture_output=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
