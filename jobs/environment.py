"""On what was a run made? Host, processor, memory and versions, told without importing any of the packages."""

import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = ("shardwright", "torch", "numpy", "pyarrow", "tokenizers", "transformers", "tensorboard", "rich")


def environment() -> dict[str, Any]:
    """Host facts; memory in bytes, None where the system does not say."""
    return {
        "host": platform.node(),
        "system": platform.platform(),
        "processor": processor(),
        "cpus": len(os.sched_getaffinity(0)),
        "memory": memory(),
        "python": platform.python_version(),
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]] if sys.argv else [],
    }


def installed(extra: tuple[str, ...] = ()) -> dict[str, str]:
    """Version of each of the usual packages, and of `extra`, that is installed."""
    versions = {}
    for package in dict.fromkeys((*PACKAGES, *extra)):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return versions


def processor() -> str:
    """The processor's name as the kernel tells it."""
    names = Path("/proc/cpuinfo")
    if names.is_file():
        for line in names.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def memory() -> int | None:
    """Bytes of main memory."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return None
