"""Is this environment the one that lock.txt describes?"""

import re
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

CUDA = re.compile(r"(nvidia|cuda)-|triton$")  # what torch's own CUDA build brings along; its version is torch's choice
EXTRAS = frozenset({"train", "hf", "track", "data", "deepspeed", "fairscale", "horovod", "test"})
LINE = re.compile(r"([A-Za-z0-9._-]+)==([0-9][A-Za-z0-9.]*)")


@pytest.fixture(scope="module")
def locked(root: Path) -> dict[str, str]:
    """Canonical name -> exact version."""
    lines = [line for line in (root / "lock.txt").read_text().splitlines() if not line.startswith("#")]
    found = [LINE.fullmatch(line) for line in lines]
    assert all(found), "every line of lock.txt is name==version, without a build tag, a place or a marker"
    return {canonicalize_name(match[1]): match[2] for match in found if match}


def needed(name: str, extras: frozenset[str], seen: set[tuple[str, str]]) -> set[str]:
    """Names that a distribution needs here with the given extras, itself included, through all its requirements."""
    names = {canonicalize_name(name)}
    for extra in extras | {""}:
        if (name, extra) in seen:
            continue
        seen.add((name, extra))
        for requirement in map(Requirement, requires(name) or ()):
            if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
                names |= needed(requirement.name, frozenset(requirement.extras), seen)
    return names


def test_every_package_that_is_needed_is_locked_at_the_version_that_is_installed(locked: dict[str, str]) -> None:
    names = needed("shardwright", EXTRAS, set()) - {"shardwright"}
    installed = {name: version(name).partition("+")[0] for name in names if not CUDA.match(name)}
    assert {"torch", "numpy", "pytest", "markupsafe"} <= set(installed)
    assert installed == {name: locked.get(name) for name in installed}


def test_whatever_else_of_the_lock_is_installed_has_its_version(locked: dict[str, str]) -> None:
    for name, expected in locked.items():
        try:
            assert version(name).partition("+")[0] == expected, name
        except PackageNotFoundError:
            continue  # the benchmarks' peers


def test_no_file_of_the_set_up_names_a_host(root: Path) -> None:
    for name in ("Makefile", ".ci/run", "lock.txt", "pyproject.toml", "setup.py", "benchmarks/requirements.txt"):
        assert "://" not in (root / name).read_text(), name
