"""Who runs a model's passes and updates it? An engine: torch itself, or a library of parallel training behind it.

A step, a verdict on a layout and a run's checkpoints know these interfaces alone. An engine is a model, the solver that
changes its weights, and their state as a checkpoint sees it. Whatever leaves an engine, or enters it, goes by the names
of the whole model.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Protocol

from torch import Tensor, nn

from ..models.entry import Entry
from ..models.program import Terms
from .engines.limits import dtype_refusal, refusal
from .groups import read_groups
from .mesh import Mesh
from .options import OptimizerOptions
from .solvers import Solver
from .terms import LOSS, Batch, Passed


class Model(Protocol):
    """One rank's part of a model. Between `run` and the solver's update it holds the summed objective's gradient."""

    @property
    def entry(self) -> Entry:
        """What is trained."""

    @property
    def mesh(self) -> Mesh:
        """Where this rank stands."""

    @property
    def program(self) -> nn.Module:
        """The modules of this rank."""

    @property
    def parameters(self) -> Mapping[str, nn.Parameter]:
        """This rank's part of each parameter, by the names of the whole model."""

    def run(self, micro_batches: Sequence[Batch], *, phase: str = "", weights: Mapping[str, float] = LOSS) -> Passed:
        """Forward and backward of one step, the gradients reduced. Collective.

        Args:
            phase: name of the entry's phase.
            weights: of each term's sum in what is differentiated.
        """

    def evaluate(self, micro_batches: Sequence[Batch], *, phase: str = "") -> Terms:
        """Forward alone, in evaluation mode. Collective."""

    def clear(self) -> None:
        """Drop the gradients."""

    def square(self, names: Sequence[str]) -> Tensor:
        """This rank's share of the named gradients' squared norm; their sum over the world is the whole's, 0-dim."""

    def scale(self, names: Sequence[str], factor: float) -> None:
        """Multiply the named gradients."""

    def parts(self, names: Sequence[str]) -> dict[str, Tensor]:
        """This rank's part of each named gradient; none where the engine keeps them in a form of its own."""

    def gradients(self, names: Sequence[str]) -> dict[str, Tensor]:
        """The named gradients that this rank has a part of; a DTensor stands for its whole. Collective."""

    def prescribe(self, make: Callable[[Tensor], Tensor]) -> None:
        """After a `run`, replace every gradient by an elementwise function of its parameter."""

    def weights(self) -> dict[str, Tensor]:
        """The parameters that this rank has a part of; a DTensor stands for its whole. Collective."""


class State(Protocol):
    """What a checkpoint or snapshot holds of a model and its solver."""

    @property
    def tensors(self) -> Mapping[str, Tensor]:
        """ "model.<name>" and "optimizer.<name>.<state>" -> tensors that are written from and read into.

        A DTensor stands for its whole tensor; a plain tensor is the same on every rank that holds the name.
        """

    def fill(self) -> None:
        """Bring the tensors up to date, before they are written. Collective."""

    def adopt(self) -> None:
        """Go on from the tensors, after they were read. Collective."""


@dataclass(frozen=True)
class Engine:
    """A model, what changes its weights, and the state of both."""

    model: Model
    solver: Solver
    state: State


def build_engine(
    entry: Entry, config: Any, mesh: Mesh, optimizer: OptimizerOptions, clip: float, **building: Any
) -> Engine:
    """The engine that a layout names. Collective.

    Args:
        clip: largest norm of the gradient; 0 turns clipping off.
        building: further keywords of `parallelize`.

    Raises:
        ValueError: the engine cannot do what the layout asks; the sentence says why.
    """
    layout = mesh.layout
    if reason := refusal(entry, layout) or dtype_refusal(layout.engine, building.get("dtype", "fp32")):
        raise ValueError(reason)
    engine = import_module(f".engines.{layout.engine}", __package__)
    groups = read_groups(optimizer.groups)
    built: Engine = engine.build(entry, config, mesh, optimizer, clip, groups=groups, **building)
    return built
