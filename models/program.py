"""How does an entry become the one module that is parallelized? By its build, and around a bare network by its loss.

Whatever the entry is, the result's forward(batch) is the objective and returns named (sum, count) terms.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from numbers import Real
from typing import Any

import torch
from torch import Tensor, nn

from .entry import Entry, load_object

Terms = dict[str, tuple[Tensor, Tensor]]


def build(entry: Entry, config: Any = None) -> nn.Module:
    """The Program of an entry, in torch's default device and generator, which the caller sets.

    Raises:
        ValueError, ModuleNotFoundError: `build` names nothing.
        TypeError: build returned something else than a module.
    """
    function = load_object(entry.build) if isinstance(entry.build, str) else entry.build
    made = function() if config is None else function(config)
    if not isinstance(made, nn.Module):
        raise TypeError(f"build of {entry.name or 'the entry'} returned a {type(made).__name__}, expected an nn.Module")
    return made if entry.loss is None else Objective(made, entry.loss)


def count_parameters(entry: Entry, config: Any = None) -> int:
    """Elements of all weights, a tied one once: the entry's own count, or else that of a model on the meta device."""
    if entry.parameters is not None:
        return entry.parameters(config)
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in build(entry, config).parameters())


class Objective(nn.Module):
    """The Program of an entry that gives a network and a loss: forward(batch) is loss(network, batch)."""

    def __init__(self, network: nn.Module, loss: Any) -> None:
        super().__init__()
        self.network = network
        self.loss = loss

    def forward(self, batch: Mapping[str, Tensor], **phase: str) -> Mapping[str, Any]:
        """Named terms of a batch, and what else the loss returned beside them.

        Raises:
            TypeError, ValueError: the loss returned something else than (sum, count) or named ones.
        """
        answer = self.loss(self.network, batch, **phase)
        return answer if isinstance(answer, Mapping) and BESIDE & answer.keys() else named_terms(answer, needed=())


BESIDE = frozenset({"state", "update"})  # what forward may return beside its terms


@dataclass(frozen=True)
class Result:
    """What a Program's forward returned, taken apart."""

    terms: Terms = field(default_factory=dict)  # none in a stage that does not hold the last unit
    boundary: tuple[Tensor, ...] = ()  # for the next stage
    state: Mapping[str, Tensor] = field(default_factory=dict)  # new rows of the entry's streams
    update: Mapping[str, Tensor] = field(default_factory=dict)  # what a rule without gradients adds to parameters


def take_apart(value: Any, objective: Iterable[str] = ("loss",)) -> Result:
    """The parts of a forward's answer.

    Args:
        value: named terms, with "state" and "update" beside them; or the tuple of boundary tensors, with a
            {"state": ...} behind them.
        objective: the terms that must be there.

    Raises:
        TypeError, ValueError: as `named_terms`.
    """
    if isinstance(value, tuple) and not _is_term(value):
        beside = value[-1] if value and isinstance(value[-1], Mapping) else {}
        return Result(boundary=value[: len(value) - bool(beside)], state=beside.get("state", {}))
    beside = {name: value[name] for name in BESIDE & value.keys()} if isinstance(value, Mapping) else {}
    terms = {name: term for name, term in value.items() if name not in beside} if beside else value
    return Result(named_terms(terms, objective), **beside)


def _is_term(value: tuple[Any, ...]) -> bool:
    """Whether a tuple is (sum, count) and no boundary."""
    return len(value) == 2 and isinstance(value[0], Tensor) and not value[0].dim() and not isinstance(value[1], Mapping)


def named_terms(value: Any, needed: Iterable[str] = ("loss",)) -> Terms:
    """What a loss returned, as name -> (sum, count), 0-dim tensors on one device.

    Raises:
        TypeError, ValueError: it is not (sum, count) nor named ones, a needed term is missing, or a sum is no scalar.
    """
    terms = value if isinstance(value, Mapping) else {"loss": value}
    for name in needed:
        if name not in terms:
            raise ValueError(f'the loss returned the terms {sorted(map(str, terms))}; "{name}" must be among them')
    return {name: _term(name, term) for name, term in terms.items()}


def _term(name: str, term: Any) -> tuple[Tensor, Tensor]:
    if not (isinstance(term, tuple | list) and len(term) == 2):
        raise TypeError(
            f"term {name!r} is {_words(term)}, expected (sum, count): a sum over samples and how many there were, "
            "such as (losses.sum(), losses.numel()). A mean would be wrong where micro-batches differ in their count."
        )
    total, count = term
    if not isinstance(total, Tensor) or total.dim() or not total.is_floating_point():
        raise TypeError(f"the sum of term {name!r} is {_words(total)}, expected a 0-dim floating-point tensor")
    if not isinstance(count, Tensor | Real) or (isinstance(count, Tensor) and count.dim()):
        raise TypeError(f"the count of term {name!r} is {_words(count)}, expected a number or a 0-dim tensor")
    return total, torch.as_tensor(count, dtype=torch.float32, device=total.device)


def _words(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"a {value.dtype} tensor of shape {tuple(value.shape)}"
    return f"a {type(value).__name__}" + (f" of {len(value)}" if isinstance(value, tuple | list) else "")
