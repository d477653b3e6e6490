"""Shardwright: one job file trains any PyTorch model, sharded any way, and proves the result never changed.

Which verbs does Python have? The same as the command line. The menu is lazy: `import shardwright` loads none of the
floors, and a name loads only the module that holds it.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .cluster.launch import load_run, render, run
    from .cluster.plan import plan
    from .cluster.verify import verify
    from .models.entry import Entry, Follow, Phase, Stream, TensorPlan, Unit

__all__ = [
    "Entry",
    "Follow",
    "Phase",
    "Stream",
    "TensorPlan",
    "Unit",
    "load_run",
    "plan",
    "render",
    "run",
    "verify",
]

if not TYPE_CHECKING:  # hidden from type checkers, for which any misspelt name would exist otherwise
    HOMES = {
        **dict.fromkeys(("Entry", "Follow", "Phase", "Stream", "TensorPlan", "Unit"), "shardwright.models.entry"),
        "load_run": "shardwright.cluster.launch",
        "plan": "shardwright.cluster.plan",
        "render": "shardwright.cluster.launch",
        "run": "shardwright.cluster.launch",
        "verify": "shardwright.cluster.verify",
    }

    def __getattr__(name):
        """A name of the menu, from its module."""
        if name not in HOMES:
            raise AttributeError(f"module 'shardwright' has no attribute {name!r}; it has {', '.join(__all__)}")
        return getattr(import_module(HOMES[name]), name)

    def __dir__():
        """The menu beside what every module has."""
        return sorted({*globals(), *__all__})
