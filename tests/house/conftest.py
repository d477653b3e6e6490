"""What do the packaging tests stand on? Copies of the checkout, and wheels that were really built from them."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LEFT_BEHIND = (".git", ".venv*", ".*_cache", ".hypothesis", "__pycache__", "*.egg-info", "build", "dist", "runs")


def completed(*command: str | Path, cwd: Path | None = None, **environment: str) -> str:
    """Standard output of a command that must succeed."""
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, env=os.environ | environment, text=True, capture_output=True
    )
    assert done.returncode == 0, f"{command} exited with {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout."""
    return ROOT


@pytest.fixture(scope="session")
def build(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Builds the wheel from a copy of the checkout in a folder of the given name."""

    def built(folder: str) -> Path:
        place = tmp_path_factory.mktemp("build")
        copy = shutil.copytree(ROOT, place / folder, ignore=shutil.ignore_patterns(*LEFT_BEHIND))
        pip = (sys.executable, "-m", "pip", "--disable-pip-version-check")
        completed(*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", place / "wheels", copy)
        (wheel,) = (place / "wheels").iterdir()
        return wheel

    return built


@pytest.fixture(scope="session")
def wheel(build: Callable[[str], Path]) -> Path:
    """The wheel of this checkout, built in a folder whose name is no identifier."""
    return build("a-b")
