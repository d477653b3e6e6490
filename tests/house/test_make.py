"""Do the two commands do what they say, and say what is missing?"""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

DECLARED = ("Makefile", "pyproject.toml", "setup.py", "lock.txt", "trainers/engines/horovod_wheel.py")
OF_A_MAKE_AROUND = ("MAKE", "MFLAGS", "PYTHON", "ARGS", "INDEX", "FIND_LINKS")  # this may run inside `make test`


@pytest.fixture
def checkout(root: Path, tmp_path: Path) -> Path:
    """A folder with what make reads."""
    for name in DECLARED:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(root / name, tmp_path / name)
    return tmp_path


def surroundings() -> dict[str, str]:
    """The environment of a person at a terminal."""
    return {name: value for name, value in os.environ.items() if not name.startswith(OF_A_MAKE_AROUND)}


def make(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """GNU make, as a person calls it."""
    return subprocess.run(["make", *arguments], cwd=folder, env=surroundings(), text=True, capture_output=True)


def interpreter(folder: Path, name: str, script: str) -> str:
    """A stand-in for a Python: a shell script that reads the code it is given as $2."""
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


def test_a_python_without_venv_is_one_sentence_that_names_the_package(checkout: Path) -> None:
    bare = interpreter(checkout, "bare", 'case "$2" in *ensurepip*) exit 1;; *print*) echo python3.11-venv;; esac')
    done = make(checkout, "run", f"PYTHON={bare}")
    assert done.returncode == 2
    sentence, last = done.stderr.splitlines()
    assert sentence == (
        f"{bare} cannot make a virtual environment: run 'sudo apt-get install python3.11-venv', then call make again."
    )
    assert last.startswith("make: ***")
    assert not (checkout / ".venv").exists()


def test_no_suitable_python_is_one_sentence(checkout: Path) -> None:
    old = interpreter(checkout, "old", "exit 1")
    done = make(checkout, "run", f"PYTHON={old} no-such-python")
    assert done.returncode == 2
    assert done.stderr.splitlines()[0].startswith(f"No Python 3.11 or newer among {old} no-such-python: ")


def test_the_first_python_that_can_is_taken(checkout: Path) -> None:
    bare = interpreter(checkout, "bare", 'case "$2" in *ensurepip*) exit 1;; esac')
    able = interpreter(
        checkout, "able", 'case "$1" in -m) echo "$@" > asked; mkdir .venv;; -V) echo Python 3.12.0;; esac'
    )
    make(checkout, ".venv/.made", f"PYTHON={bare} {able}")
    assert (checkout / "asked").read_text() == "-m venv .venv\n"


@pytest.mark.parametrize(
    ("target", "command"), [("run", ".venv/bin/shardwright run gpt"), ("test", ".venv/bin/python -m pytest ")]
)
def test_a_second_call_installs_nothing_until_the_declaration_changes(
    checkout: Path, target: str, command: str
) -> None:
    (checkout / ".venv").mkdir()
    for stamp in (".made", ".run", ".test", ".engines"):
        (checkout / ".venv" / stamp).touch()
    assert make(checkout, "--dry-run", target).stdout == command + "\n"
    os.utime(checkout / ".venv" / ".run", (0, 0))
    assert "pip" in make(checkout, "--dry-run", target).stdout


def test_an_index_is_handed_to_pip_by_its_environment(checkout: Path) -> None:
    (checkout / "Makefile").write_text((checkout / "Makefile").read_text() + "\nshow:\n\t@env | grep ^PIP_ | sort\n")
    given = make(checkout, "show", "INDEX=file:///index", "FIND_LINKS=/wheels").stdout.splitlines()
    assert {"PIP_INDEX_URL=file:///index", "PIP_FIND_LINKS=/wheels"} <= set(given)


def test_ci_calls_make_test_with_the_environment_of_ci(root: Path, tmp_path: Path) -> None:
    copy = tmp_path / ".ci"
    copy.mkdir()
    shutil.copy(root / ".ci" / "run", copy)
    (tmp_path / "bin").mkdir()
    (tmp_path / "Makefile").write_text("test:\n\t@echo CI=$(CI)\n\t@exit 3\n")
    interpreter(tmp_path / "bin", "chromium", "exit 0")
    environment = surroundings() | {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"}
    done = subprocess.run([copy / "run"], env=environment, text=True, capture_output=True)
    assert done.stdout.splitlines()[-1] == "CI=true"
    assert done.returncode == 2 and "Error 3" in done.stderr
