"""What does an import load? Neither torch nor ray nor kubernetes, before a worker needs them.

Modules are imported one after the other in a process of their own, so the first that loads a heavy package is named.
"""

import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = ("torch", "ray", "kubernetes", "transformers", "tensorboard")
FLOORS = ("models", "trainers", "jobs", "cluster", "slurm", "k8s")
WITH_TORCH = (  # what runs only where torch is: the networks, the training itself, and the tasks of a worker
    "jobs/generate.py",
    "jobs/train.py",
    "jobs/verify.py",
    "models/axes.py",
    "models/draw.py",
    "models/draw_operator.py",
    "models/draw_operator.py",
    "models/program.py",
    "models/*/*.py",
    "trainers/*.py",
    "trainers/**/*.py",
)
WITHOUT_TORCH = (  # and what is read on a machine that only submits, watches and reports
    "__init__.py",
    "models/*/entry.py",
    "models/layers/sizes.py",
    "trainers/options.py",
    "trainers/groups.py",
    "trainers/engines/horovod_wheel.py",
    "trainers/engines/limits.py",
    "trainers/layout.py",
    "trainers/legal.py",
    "trainers/memory.py",
    "trainers/memory_moments.py",
    "trainers/memory_pieces.py",
    "trainers/pipeline_order.py",
    "trainers/portions.py",
    "trainers/refusals.py",
    "trainers/sink.py",
    "trainers/checkpoint/manifest.py",
    "trainers/checkpoint/snapshot.py",
    "trainers/data/order.py",
    "trainers/data/pack.py",
    "trainers/data/sources.py",
    "trainers/data/tokenizer.py",
)

AUDIT = """\
import importlib, sys
for name in sys.argv[2:]:
    importlib.import_module(name)
    loaded = sorted(set(sys.argv[1].split(",")) & set(sys.modules))
    if loaded:
        sys.exit(f"importing {name} loaded {', '.join(loaded)}")
"""


def audit(code: str, *arguments: str) -> None:
    """Run Python code in a process of its own, which must succeed."""
    done = subprocess.run([sys.executable, "-c", code, *arguments], text=True, capture_output=True)
    assert done.returncode == 0, done.stdout + done.stderr


def is_light(path: Path) -> bool:
    """Whether a file, relative to the root, must be importable without torch."""
    return any(map(path.match, WITHOUT_TORCH)) or not any(map(path.match, WITH_TORCH))


def dotted(path: Path) -> str:
    """The module that a file is."""
    parts = path.with_suffix("").parts
    return ".".join(("shardwright", *(part for part in parts if part != "__init__")))


def test_light_modules_load_nothing_heavy(root: Path) -> None:
    files = (path.relative_to(root) for floor in FLOORS for path in sorted((root / floor).rglob("*.py")))
    light = [dotted(path) for path in files if is_light(path)]
    assert "shardwright.jobs.spec" in light and "shardwright.trainers.layout" in light
    audit(AUDIT, ",".join(HEAVY), "shardwright", "shardwright.__main__", "shardwright.cli", *light)


def test_the_audit_names_the_module_that_loads_torch() -> None:
    with pytest.raises(AssertionError, match=r"importing shardwright\.models\.draw loaded torch"):
        audit(AUDIT, "torch", "shardwright", "shardwright.jobs.spec", "shardwright.models.draw")


def test_the_menu_loads_no_floor() -> None:
    audit(
        "import sys, shardwright; dir(shardwright); sys.exit([n for n in sys.modules if n[:12] == 'shardwright.'] or 0)"
    )


def test_each_name_of_the_menu_is_there() -> None:
    import shardwright

    assert {name for name in shardwright.__all__ if getattr(shardwright, name).__name__ == name} == set(
        shardwright.__all__
    )
    assert set(shardwright.__all__) <= set(dir(shardwright))
    with pytest.raises(AttributeError, match="'shardwright' has no attribute 'Entri'; it has Entry, "):
        shardwright.Entri  # noqa: B018


@pytest.mark.parametrize("verb", ["--help", "run gpt --dry-run", "plan gpt", "config gpt", "models"])
def test_a_verb_loads_nothing_heavy(verb: str, tmp_path: Path) -> None:
    code = """\
import sys
from shardwright.cli import main
sys.argv = ["shardwright", *sys.argv[2].split()]
try:
    status = main()
except SystemExit as leave:
    status = leave.code
loaded = set(LOADED) & set(sys.modules)
sys.exit(status or (f"{sys.argv} loaded {loaded}" if loaded else 0))
""".replace("LOADED", repr(HEAVY))
    done = subprocess.run([sys.executable, "-c", code, "", verb], cwd=tmp_path, text=True, capture_output=True)
    assert done.returncode == 0, done.stdout + done.stderr
