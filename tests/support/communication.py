"""What does a rank communicate? Every collective that its operations ask for, and the bytes that it gives to it."""

from collections import Counter
from typing import Any

from shardwright.jobs.verify import token_batches
from shardwright.models.catalog import configure, find
from shardwright.trainers.layout import parse_strategy
from shardwright.trainers.mesh import build_mesh
from shardwright.trainers.parallelize import parallelize
from shardwright.trainers.world import Worker
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

NAMES = {
    "allreduce_": "all-reduce",
    "all_gather_into_tensor": "all-gather",
    "reduce_scatter_tensor": "reduce-scatter",
    "all_to_all_single": "all-to-all",
}


class Communication(TorchDispatchMode):
    """Counts collectives and the bytes of their inputs, by name, while it is entered."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()
        self.bytes: Counter[str] = Counter()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = function.overloadpacket.__name__
        if function.namespace in ("c10d", "_c10d_functional") and not name.startswith(("wait", "_wrap")):
            name = NAMES.get(name, name)
            self.counts[name] += 1
            self.bytes[name] += sum(x.nbytes for x in tree_leaves(args[0]) if isinstance(x, Tensor))
        return function(*args, **(kwargs or {}))


def communication(
    worker: Worker, model: str, config: dict[str, Any], strategy: str, tokens: int, micro_batches: int
) -> dict[str, list[int]]:
    """Of each collective of a rank's second step: how often, and how many bytes."""
    entry, mesh = find(model), build_mesh(parse_strategy(strategy), worker.rank, worker.device)
    sizes = configure(entry, "tiny", config)
    sharded = parallelize(entry, sizes, mesh, seed=0, tokens=tokens)
    portions = token_batches(sizes.vocab_size, tokens, mesh.layout.data * micro_batches)[0]
    own = portions[mesh.data_rank * micro_batches :][:micro_batches]
    sharded.run(own)  # the first step initialises lazily
    with Communication() as counted:
        sharded.run(own)
    return {name: [counted.counts[name], counted.bytes[name]] for name in counted.counts}
