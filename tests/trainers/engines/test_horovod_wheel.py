"""Does the script that builds horovod's wheel find what is built, patch what is not, and say what is missing?"""

import os
import subprocess
import sys
import zipfile
from importlib.metadata import version
from pathlib import Path

import pytest
from shardwright.trainers.engines import horovod_wheel

SCRIPT = Path(horovod_wheel.__file__)


def call(**environment: str) -> subprocess.CompletedProcess[str]:
    """The script, as make calls it."""
    return subprocess.run([sys.executable, SCRIPT], env=os.environ | environment, text=True, capture_output=True)


def test_a_wheel_that_was_built_is_taken_for_this_torch_and_python_only(tmp_path: Path) -> None:
    folder = tmp_path / "shardwright" / "wheels"
    own = folder / f"torch-{version('torch')}-{sys.implementation.cache_tag}-{os.uname().machine}"
    for place in (own, folder / "torch-1.0-cpython-311-x86_64"):
        place.mkdir(parents=True)
        (place / "horovod-0.28.1-any.whl").touch()
    done = call(XDG_CACHE_HOME=str(tmp_path), PATH="")
    assert done.stdout == f"{own / 'horovod-0.28.1-any.whl'}\n", done.stderr


def test_without_its_tools_it_names_them(tmp_path: Path) -> None:
    done = call(XDG_CACHE_HOME=str(tmp_path), PATH="")
    assert done.returncode == 1 and not done.stdout
    assert done.stderr == "Building horovod needs cmake and make and c++: install cmake, make and g++.\n"


def test_the_patch_asks_for_a_newer_standard(tmp_path: Path) -> None:
    for name in horovod_wheel.PATCHED:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("project(horovod)\nset(CMAKE_CXX_STANDARD 14)\n")
    horovod_wheel.patch(tmp_path)
    assert {(tmp_path / name).read_text() for name in horovod_wheel.PATCHED} == {
        "project(horovod)\nset(CMAKE_CXX_STANDARD 17)\n"
    }
    with pytest.raises(SystemExit, match="nothing to patch"):
        horovod_wheel.patch(tmp_path)


def test_a_wheel_without_its_library_is_refused(tmp_path: Path) -> None:
    right, wrong = tmp_path / "right.whl", tmp_path / "wrong.whl"
    for path, name in ((right, "horovod/torch/mpi_lib_v2.so"), (wrong, "tmp/a+b/horovod/torch/mpi_lib_v2.so")):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(name, "")
    assert horovod_wheel.publish(horovod_wheel.checked(right), tmp_path / "cache") == tmp_path / "cache" / "right.whl"
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["right.whl"]
    with pytest.raises(SystemExit, match=r"holds no horovod/torch/mpi_lib_v2"):
        horovod_wheel.checked(wrong)
