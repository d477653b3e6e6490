"""Which parameters move differently? Groups by name: their own learning rate and decay, or none at all. Without torch.

[optimizer.groups] maps a pattern of parameter names to {lr = factor, weight_decay = value, frozen = true}; the first
pattern that fits a name decides.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

KEYS = {"lr": "a factor of the learning rate, 0 or more", "weight_decay": "0 or more", "frozen": "true or false"}


@dataclass(frozen=True)
class Group:
    """What holds for the parameters of a pattern."""

    pattern: str = "*"
    lr: float = 1.0  # factor of the learning rate
    weight_decay: float | None = None  # None: the optimizer's own
    frozen: bool = False


REST = Group()


def read_groups(table: Mapping[str, Any]) -> tuple[Group, ...]:
    """The groups of [optimizer.groups], in the order of the file.

    Raises:
        ValueError: a group has an unknown key or an impossible value.
    """
    return tuple(_read(pattern, values) for pattern, values in table.items())


def _read(pattern: str, values: Any) -> Group:
    if not isinstance(values, Mapping):
        raise ValueError(f"optimizer.groups.{pattern!r} is {values!r}, expected a table with {', '.join(KEYS)}")
    for key, value in values.items():
        number = isinstance(value, int | float) and not isinstance(value, bool) and value >= 0
        if key not in KEYS:
            raise ValueError(f"optimizer.groups.{pattern!r} has no key {key!r} (known: {', '.join(KEYS)})")
        if not (isinstance(value, bool) if key == "frozen" else number):
            raise ValueError(f"optimizer.groups.{pattern!r}: {key} = {value!r}, expected {KEYS[key]}")
    return Group(pattern, **values)


def group_of(groups: Iterable[Group], name: str) -> Group:
    """The group that a parameter belongs to."""
    return next((group for group in groups if fnmatchcase(name, group.pattern)), REST)


def check_patterns(groups: Iterable[Group], names: Iterable[str]) -> None:
    """Refuse a pattern that fits nothing.

    Raises:
        ValueError: it does not fit any of the names.
    """
    known = list(names)
    for group in groups:
        if not any(fnmatchcase(name, group.pattern) for name in known):
            few = f"the first of {len(known)} are {', '.join(known[:4])}"
            raise ValueError(f"optimizer.groups.{group.pattern!r} fits no parameter; {few}")


def freeze(groups: Iterable[Group], parameters: Mapping[str, Any]) -> None:
    """Take the gradient from the frozen ones of a whole model's parameters, by name; a tied one's by its owner's.

    Raises:
        ValueError: a pattern fits no parameter, or nothing is left to train.
    """
    groups = tuple(groups)
    check_patterns(groups, parameters)
    for name, parameter in parameters.items():
        if group_of(groups, name).frozen:
            parameter.requires_grad = False
    check_trained(groups, [name for name, parameter in parameters.items() if parameter.requires_grad])


def check_trained(groups: Iterable[Group], trained: Iterable[str]) -> None:
    """Refuse to freeze everything.

    Raises:
        ValueError: there are no trained names.
    """
    frozen = [repr(group.pattern) for group in groups if group.frozen]
    if frozen and not any(True for _ in trained):
        raise ValueError(f"optimizer.groups: {', '.join(frozen)} freeze every parameter; nothing is left to train")
