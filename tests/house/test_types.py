"""Do strict types hold, over the installed wheel and for the people who import it?"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

CONSUMER = """\
from collections.abc import Mapping
from pathlib import Path
from typing import Any, assert_type

import shardwright as sw

entry = sw.Entry(build="package.model:build", name="mine")
assert_type(entry, sw.Entry)
assert_type(entry.name, str)
assert_type(sw.load_run("last").metrics, list[Mapping[str, Any]])
assert_type(sw.run({"train": {"steps": 1}}, "train.steps=2").checkpoint(), Path | None)
assert_type(sw.verify("gpt2", ["ddp"]).ok, bool)
sw.run(1)  # type: ignore[arg-type]
sw.Entry(bild="package.model:build")  # type: ignore[call-arg]
sw.entry  # type: ignore[attr-defined]
"""


@pytest.fixture(scope="session")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that the wheel is installed into."""
    target = tmp_path_factory.mktemp("installed")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    subprocess.run([*pip, "--no-deps", "--target", str(target), str(wheel)], check=True)
    return target


def mypy(root: Path, installed: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """mypy with the project's rules (strict, but for what torch leaves untyped), seeing `shardwright` as installed."""
    command = [sys.executable, "-m", "mypy", "--config-file", str(root / "pyproject.toml")]
    return subprocess.run(
        [*command, "--cache-dir", str(root / ".mypy_cache"), *arguments],
        cwd=installed,
        env=os.environ | {"MYPYPATH": str(installed)},
        text=True,
        capture_output=True,
    )


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_installed_package_is_strictly_typed(root: Path, installed: Path) -> None:
    done = mypy(root, installed, "-p", "shardwright")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.timeout(900)
def test_the_menu_has_types_and_a_misspelt_name_has_none(root: Path, installed: Path, tmp_path: Path) -> None:
    consumer = tmp_path / "consumer.py"
    consumer.write_text(CONSUMER)
    done = mypy(root, installed, str(consumer))
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.timeout(900)
def test_an_untyped_function_is_found(root: Path, installed: Path, tmp_path: Path) -> None:
    consumer = tmp_path / "consumer.py"
    consumer.write_text("def untyped(x):\n    return x\n")
    done = mypy(root, installed, str(consumer))
    assert done.returncode == 1 and "no-untyped-def" in done.stdout
