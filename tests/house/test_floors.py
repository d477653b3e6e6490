"""Is the house on disk the house that the rules describe?"""

import ast
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

FLOORS = {"models", "trainers", "jobs", "cluster", "slurm", "k8s"}
BESIDE = {"tests", "benchmarks", "docs"}


@pytest.fixture(scope="module")
def project(root: Path) -> dict[str, Any]:
    """pyproject.toml."""
    return tomllib.loads((root / "pyproject.toml").read_text())


def test_the_six_folders_are_the_only_packages(root: Path) -> None:
    visible = (path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    packages = {path.name for path in visible if any(path.rglob("*.py")) and path.name not in BESIDE | {"build"}}
    assert packages == FLOORS


def test_the_root_holds_no_module_but_the_menu_the_verbs_and_setup(root: Path) -> None:
    assert {path.name for path in root.glob("*.py")} == {"__init__.py", "__main__.py", "cli.py", "setup.py", "words.py"}


def test_setup_and_rules_name_every_floor(root: Path, project: dict[str, Any]) -> None:
    tree = ast.parse((root / "setup.py").read_text())
    named = [
        node for node in ast.walk(tree) if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "FLOORS"
    ]
    assert set(ast.literal_eval(named[0].value)) == FLOORS
    assert set(project["tool"]["ruff"]["lint"]["flake8-tidy-imports"]["banned-api"]) == FLOORS
    layers = project["tool"]["importlinter"]["contracts"][0]["layers"]
    assert {name.strip() for layer in layers for name in layer.split("|")} == {
        f"shardwright.{name}" for name in {"__main__", "cli", "words", *FLOORS}
    }


def test_a_package_holds_no_code_of_its_own(root: Path) -> None:
    """An `__init__.py` below the root is empty, so that importing a module imports that module alone."""
    written = [path for floor in FLOORS for path in (root / floor).rglob("__init__.py") if path.read_text().strip()]
    assert not written


def lint_imports(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """import-linter over the package that `folder` holds."""
    command = (
        f"import sys; sys.path.insert(0, {str(folder)!r}); from importlinter.cli import lint_imports_command as c; c()"
    )
    config = str(folder / "pyproject.toml")
    return subprocess.run(
        [sys.executable, "-P", "-c", command, "--no-cache", "--config", config, *arguments],
        cwd=folder,
        text=True,
        capture_output=True,
    )


@pytest.fixture
def house(root: Path, tmp_path: Path) -> Path:
    """A folder with a copy of the package under its own name, beside its rules."""
    leave = shutil.ignore_patterns(".*", "tests", "build", "runs", "__pycache__", "*.egg-info")
    shutil.copytree(root, tmp_path / "shardwright", ignore=leave)
    shutil.copy(root / "pyproject.toml", tmp_path)
    return tmp_path


def test_each_floor_imports_only_those_below_it(house: Path) -> None:
    done = lint_imports(house)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 kept, 0 broken" in done.stdout


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("models/planted.py", "from ..trainers import options"),
        ("jobs/planted.py", "from ..cluster import planted_above"),
        ("k8s/planted.py", "import shardwright.slurm.planted_sibling"),
    ],
)
def test_an_import_upwards_or_sideways_is_found(house: Path, module: str, line: str) -> None:
    for target in ("cluster/planted_above.py", "slurm/planted_sibling.py"):
        (house / "shardwright" / target).touch()
    (house / "shardwright" / module).write_text(line + "\n")
    done = lint_imports(house)
    assert done.returncode == 1
    assert "0 kept, 1 broken" in done.stdout
