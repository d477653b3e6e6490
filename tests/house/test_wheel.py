"""Does the wheel hold the package and nothing else?"""

import re
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

FLOORS = ("models", "trainers", "jobs", "cluster", "slurm", "k8s")
OF_THE_ROOT = {"__init__.py", "__main__.py", "cli.py", "py.typed", "words.py"}


def contents(wheel: Path) -> set[str]:
    """Names in a wheel, without its metadata."""
    with zipfile.ZipFile(wheel) as archive:
        return {name for name in archive.namelist() if not re.match(r"shardwright-[^/]*\.dist-info/", name)}


def on_disk(root: Path) -> set[str]:
    """What the wheel must hold: the root's own modules and every file of the six folders."""
    files = (path for floor in FLOORS for path in (root / floor).rglob("*") if path.is_file())
    below = {path.relative_to(root).as_posix() for path in files if "__pycache__" not in path.parts}
    return {f"shardwright/{name}" for name in OF_THE_ROOT | below}


@pytest.mark.parametrize("folder", ["shardwright", "a-b"])
def test_the_wheel_is_what_the_disk_holds(folder: str, build: Callable[[str], Path], root: Path) -> None:
    assert contents(build(folder)) == on_disk(root)


def test_the_wheel_says_what_it_offers(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (folder,) = {name.split("/")[0] for name in archive.namelist()} - {"shardwright"}
        metadata = archive.read(f"{folder}/METADATA").decode()
        entry_points = archive.read(f"{folder}/entry_points.txt").decode()
        assert f"{folder}/licenses/LICENSE" in archive.namelist()
    assert "shardwright = shardwright.cli:main" in entry_points
    assert set(re.findall(r"^Provides-Extra: (.*)$", metadata, re.M)) == {
        *("train", "hf", "track", "data", "test"),
        *("deepspeed", "fairscale", "horovod"),
    }
    assert re.search(r"^License-Expression: Apache-2.0$", metadata, re.M)


def test_every_folder_of_code_is_a_package(root: Path) -> None:
    """A folder without `__init__.py` would be left out of the wheel."""
    folders = {path.parent for floor in FLOORS for path in (root / floor).rglob("*.py")}
    assert not [str(folder) for folder in folders if not (folder / "__init__.py").exists()]
