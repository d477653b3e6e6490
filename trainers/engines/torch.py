"""How does torch itself train? The trainer's own sharding and solvers, over tensors that lie where they are used."""

from typing import Any

from ...models.entry import Entry
from ..engine import Engine
from ..mesh import Mesh
from ..options import OptimizerOptions
from ..parallelize import parallelize
from ..solvers import build_solver
from ..state import Live


def build(entry: Entry, config: Any, mesh: Mesh, optimizer: OptimizerOptions, clip: float, **building: Any) -> Engine:
    """Shard an entry as the mesh says. Collective."""
    sharded = parallelize(entry, config, mesh, **building)
    solver = build_solver(sharded, optimizer, clip)
    return Engine(sharded, solver, Live(sharded, solver))
