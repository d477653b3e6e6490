"""What does an engine begin with? A whole model on every rank, built as the trainer builds it, and nothing reduced."""

from dataclasses import replace
from typing import Any

from ...models.entry import Entry
from ..mesh import Mesh
from ..parallelize import parallelize
from ..sharded import Sharded


def whole_model(entry: Entry, config: Any, mesh: Mesh, **building: Any) -> Sharded:
    """An entry's whole Program on this rank of data-parallel ranks; nobody reduces its gradients yet.

    Args:
        building: further keywords of `parallelize`.
    """
    layout = replace(
        mesh.layout, engine="torch", zero=0, offload=False, shard=1, replicate=mesh.layout.data, pipeline=1
    )
    alone = replace(mesh, layout=layout, devices=None)
    sharded = parallelize(entry, config, alone, **building)
    return replace(sharded, mesh=mesh)
