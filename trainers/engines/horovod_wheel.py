"""Where does a wheel of horovod come from? Its source distribution, patched and built once for a torch and a Python.

Run as a program by `make engines`, it prints the wheel's path. Horovod 0.28.1 is the last release, there are no wheels
of it, and as it stands it does not compile against a torch of today, whose headers want C++17. The wheel links against
the torch that it was built with, so the cache ($XDG_CACHE_HOME/shardwright/wheels) keeps one for each.

Standard library only: it runs in an environment where the project need not be installed.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from importlib.metadata import version
from pathlib import Path

RELEASE = "0.28.1"
STANDARD = re.compile(r"set\(CMAKE_CXX_STANDARD 14\)")
LIBRARY = "horovod/torch/mpi_lib_v2."
PATCHED = ("CMakeLists.txt", "horovod/torch/CMakeLists.txt")
VARIABLES = {
    "HOROVOD_WITH_PYTORCH": "1",
    "HOROVOD_WITH_GLOO": "1",
    "HOROVOD_WITHOUT_MPI": "1",
    "HOROVOD_WITHOUT_TENSORFLOW": "1",
    "HOROVOD_WITHOUT_MXNET": "1",
    "MAKEFLAGS": f"-j{os.cpu_count() or 1}",  # its own 8 compilers at once need 13 GB
    "CMAKE_POLICY_VERSION_MINIMUM": "3.5",  # its third parties ask for less than CMake 4 knows
}
TOOLS = ("cmake", "make", "c++")
PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check")


def wheel() -> Path:
    """The wheel for this interpreter and its torch; minutes of compiling where the cache has none.

    Raises:
        SystemExit: a tool is not installed, or a command fails.
    """
    folder = cache() / f"torch-{version('torch')}-{sys.implementation.cache_tag}-{os.uname().machine}"
    if found := sorted(folder.glob(f"horovod-{RELEASE}-*.whl")):
        return found[0]
    if missing := [tool for tool in TOOLS if not shutil.which(tool)]:
        raise SystemExit(f"Building horovod needs {' and '.join(missing)}: install cmake, make and g++.")
    with tempfile.TemporaryDirectory(prefix="horovod") as place:  # its CMake takes the path for a pattern: no "+" in it
        built = checked(build(patch(download(Path(place))), Path(place)))
        return publish(built, folder)


def cache() -> Path:
    """Where wheels are kept."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "shardwright" / "wheels"


def download(place: Path) -> Path:
    """The folder of the unpacked source distribution."""
    source = ("--no-deps", "--no-build-isolation", "--no-binary=horovod")
    run("download", *source, f"--dest={place}", f"horovod=={RELEASE}")
    shutil.unpack_archive(place / f"horovod-{RELEASE}.tar.gz", place)
    return place / f"horovod-{RELEASE}"


def patch(source: Path) -> Path:
    """Ask for the C++ that torch's headers are written in."""
    for name in PATCHED:
        text, count = STANDARD.subn("set(CMAKE_CXX_STANDARD 17)", (source / name).read_text())
        if not count:
            raise SystemExit(f"{name} of horovod {RELEASE} does not say {STANDARD.pattern}; nothing to patch.")
        (source / name).write_text(text)
    return source


def build(source: Path, place: Path) -> Path:
    """Compile the source distribution into a wheel."""
    run("wheel", "--no-deps", "--no-build-isolation", "--no-cache-dir", f"--wheel-dir={place}", str(source))
    (built,) = place.glob("*.whl")
    return built


def checked(built: Path) -> Path:
    """A wheel that holds the compiled library where Python looks for it."""
    with zipfile.ZipFile(built) as archive:
        names = archive.namelist()
    if not any(name.startswith(LIBRARY) for name in names):
        found = [name for name in names if name.endswith(".so")]
        raise SystemExit(
            f"The wheel of horovod {RELEASE} holds no {LIBRARY}*, but {found}; set TMPDIR to a plain path."
        )
    return built


def publish(built: Path, folder: Path) -> Path:
    """Bring a wheel into the cache whole; another process may do the same meanwhile."""
    folder.mkdir(parents=True, exist_ok=True)
    mine = folder / f"{built.name}.{os.getpid()}"
    shutil.copy(built, mine)
    return mine.replace(folder / built.name)


def run(*arguments: str) -> None:
    """Call pip; what it says is printed where it fails."""
    done = subprocess.run(
        [*PIP, *arguments], env=os.environ | VARIABLES, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    if done.returncode:
        raise SystemExit(f"{done.stdout}\npip {arguments[0]} of horovod {RELEASE} failed with {done.returncode}.")


if __name__ == "__main__":
    print(wheel())
