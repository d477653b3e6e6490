"""Do the tensors in memory and in a checkpoint agree? Names, shapes and dtypes, over all ranks, before a byte moves.

A rank holds a part of the names only (a pipeline stage); together the ranks hold exactly those of the checkpoint.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.planner import LoadPlan

from .manifest import CheckpointError

SHOWN = 5


@dataclass(frozen=True)
class Asked:
    """What one rank asks of the checkpoint, and what it does not find."""

    names: tuple[str, ...]
    missing: tuple[str, ...]
    different: tuple[str, ...]  # "name: (3, 4) float32 here, (3, 5) float32 in the checkpoint"


class StrictPlanner(DefaultLoadPlanner):
    """Loads into tensors that together are exactly the checkpoint's tensors whose names begin with `prefix`."""

    def __init__(self, path: object, prefix: str) -> None:
        super().__init__(flatten_state_dict=False, flatten_sharded_tensors=False)
        self.path, self.prefix = path, prefix

    def create_local_plan(self) -> LoadPlan:
        """Every rank: plan what agrees, note what does not."""
        asked = self._compare()
        if asked.missing or asked.different:
            return LoadPlan([], planner_data=asked)
        return replace(super().create_local_plan(), planner_data=asked)

    def create_global_plan(self, global_plan: list[LoadPlan]) -> list[LoadPlan]:
        """Rank 0: refuse, in one sentence for all ranks, what does not agree."""
        asked = [plan.planner_data for plan in global_plan]
        held = {name for rank in asked for name in rank.names}
        problems = [
            *_named("it lacks", [name for rank in asked for name in rank.missing]),
            *_named("these differ:", [text for rank in asked for text in rank.different]),
            *_named("nothing here takes", [name for name in self._saved() if name not in held]),
        ]
        if problems:
            raise CheckpointError(f"checkpoint {self.path} is of another model or optimizer: {'; '.join(problems)}")
        return super().create_global_plan(global_plan)

    def _saved(self) -> dict[str, TensorStorageMetadata]:
        saved = self.metadata.state_dict_metadata if self.metadata else {}
        tensors = {name: tensor for name, tensor in saved.items() if isinstance(tensor, TensorStorageMetadata)}
        return {name: tensor for name, tensor in tensors.items() if name.startswith(self.prefix)}

    def _compare(self) -> Asked:
        saved, different = self._saved(), []
        for name, tensor in self.state_dict.items():
            if name in saved:
                here = _describe(tensor.shape, tensor.dtype)
                there = _describe(saved[name].size, saved[name].properties.dtype)
                different += [f"{name} is {here} here and {there} in the checkpoint"] if here != there else []
        names = tuple(self.state_dict)
        return Asked(names, tuple(name for name in names if name not in saved), tuple(different))


def _describe(shape: Iterable[int], dtype: object) -> str:
    return f"{str(dtype).removeprefix('torch.')}{list(shape)}"


def _named(sentence: str, names: Sequence[str]) -> list[str]:
    names = sorted(set(names))
    if not names:
        return []
    rest = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return [f"{sentence} {', '.join(names[:SHOWN])}{rest}"]
