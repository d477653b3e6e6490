"""How is torchvision imported beside a CPU build of torch? With empty libraries in the place of CUDA's.

The published torchvision is linked against CUDA's libraries. Beside a torch without them its operators do not load, and
neither does torchvision, nor whatever imports it because it is there (transformers). Here every library that is
missing is compiled empty: each function that torchvision wants of it returns 0. None is ever called on a CPU.

Where plain `import torchvision` works, nothing is compiled or loaded.
"""

import ctypes
import hashlib
import importlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

OPERATORS = "_C.so"
NEEDED = re.compile(r"\(NEEDED\).*\[(lib(?:cudart|c10_cuda|torch_cuda)\.so[.0-9]*)\]")
UNDEFINED = re.compile(r"^ +U (\w*cuda\w*)(?:@(\S+))?$", re.IGNORECASE | re.MULTILINE)  # a name, and its version if any


def torchvision() -> ModuleType:
    """The module torchvision, with its compiled operators (nms, roi_align, deform_conv2d, ...).

    Raises:
        ImportError: torchvision is not installed.
        RuntimeError: it needs empty libraries, and no C compiler is here.
    """
    watch()
    return importlib.import_module("torchvision")


def watch() -> None:
    """From now on the first import of torchvision, by whomever, loads the empty libraries before; costs nothing."""
    if not any(isinstance(finder, Before) for finder in sys.meta_path):
        sys.meta_path.insert(0, Before())


class Before(MetaPathFinder):
    """Sees an import of torchvision first, and leaves finding it to the usual finders."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        """None, always; `torchvision.extension` is the submodule that loads the operators."""
        if name == "torchvision.extension" and path is not None:
            place(Path(path[0]) / OPERATORS)
        return None


def place(operators: Path) -> None:
    """Load empty libraries in the place of those that the operators' library lacks."""
    import torch  # noqa: F401  # its own libraries come first, so that only what they lack is taken from empty ones

    with suppress(OSError):
        ctypes.CDLL(str(operators))
        return
    for library in compiled(operators):
        ctypes.CDLL(str(library))  # known by its soname from now on; local, so that nobody else finds its names


def compiled(operators: Path) -> list[Path]:
    """The empty libraries, from the cache or new: the same operators have the same ones."""
    key = hashlib.sha256(operators.read_bytes()).hexdigest()[:16]
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "shardwright" / "torchvision" / key
    folder.mkdir(parents=True, exist_ok=True)
    return [present(folder / name, source) for name, source in sources(operators)]


def sources(operators: Path) -> Iterator[tuple[str, str]]:
    """(soname, C source) of each empty library; names that carry a version are of the library with that soname."""
    needed = NEEDED.findall(said("readelf", "--dynamic", str(operators)))
    wanted = UNDEFINED.findall(said("nm", "--dynamic", "--undefined-only", str(operators)))
    for soname in needed:
        names = [name for name, version in wanted if version == soname or (not version and soname == needed[-1])]
        yield soname, "\n".join(f"long {name}(void) {{ return 0; }}" for name in names)


def present(library: Path, source: str) -> Path:
    """A shared library of this source; other processes may make the same one meanwhile."""
    if library.exists():
        return library
    mine = library.with_suffix(f".{os.getpid()}")
    versions = mine.with_suffix(".map")
    versions.write_text(f"{library.name} {{ global: *; }};\n")
    flags = ["-shared", "-fPIC", f"-Wl,-soname,{library.name}", f"-Wl,--version-script={versions}"]
    said("cc", *flags, "-x", "c", "-", "-o", str(mine), given=source)
    mine.replace(library)
    versions.unlink()
    return library


def said(program: str, *arguments: str, given: str = "") -> str:
    """What a program of the C compiler's packages prints.

    Raises:
        RuntimeError: it is not installed, or it fails.
    """
    try:
        done = subprocess.run([program, *arguments], input=given, text=True, capture_output=True)
    except FileNotFoundError:
        raise RuntimeError(
            f"torchvision needs empty CUDA libraries here, and {program} is not installed to make them: "
            "install gcc and binutils."
        ) from None
    if done.returncode:
        raise RuntimeError(f"{program} could not make torchvision's empty libraries: {done.stderr.strip()}")
    return done.stdout
