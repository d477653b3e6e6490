"""What does a record say of its parameters? Their shapes by name, out of which counts and units follow. Torch-free."""

from collections.abc import Iterable, Mapping
from dataclasses import field
from math import prod
from typing import Any

from ..entry import Shape, Unit

Shapes = dict[str, Shape]


def size(default: Any, help: str) -> Any:
    """A field of a config with its help text."""
    return field(default=default, metadata={"help": help})


def check_sizes(config: Any, *names: str) -> None:
    """Refuse sizes below 1, heads that do not divide the width, and a dropout that is no probability below 1.

    Raises:
        ValueError: one of them is wrong.
    """
    for name in names:
        if getattr(config, name) < 1:
            raise ValueError(f"{name}={getattr(config, name)} is not positive")
    if not 0.0 <= config.dropout < 1.0:
        raise ValueError(f"dropout={config.dropout} is not in [0, 1)")


def check_heads(config: Any) -> None:
    """Refuse heads that do not divide the width.

    Raises:
        ValueError: they do not.
    """
    if config.width % config.heads:
        raise ValueError(f"heads={config.heads} does not divide width={config.width}")


def check_ids(config: Any, *names: str) -> None:
    """Refuse ids of special tokens that are not in the vocabulary, or not all different.

    Raises:
        ValueError: one is not.
    """
    ids = {name: getattr(config, name) for name in names}
    for name, id in ids.items():
        if not 0 <= id < config.vocab_size:
            raise ValueError(f"{name}={id} is not an id below vocab_size={config.vocab_size}")
    if len(set(ids.values())) < len(ids):
        raise ValueError(f"{', '.join(f'{name}={id}' for name, id in ids.items())} must be different ids")


def linear(inputs: int, outputs: int, bias: bool = True) -> Shapes:
    """Of a linear layer."""
    return {"weight": (outputs, inputs), **({"bias": (outputs,)} if bias else {})}


def norm(width: int, bias: bool = True) -> Shapes:
    """Of a norm."""
    return {"weight": (width,), **({"bias": (width,)} if bias else {})}


def within(**modules: Shapes) -> Shapes:
    """Of a module that holds others: module -> its shapes."""
    return {f"{module}.{name}": shape for module, shapes in modules.items() for name, shape in shapes.items()}


def encoder_block(width: int, hidden: int, projections: Iterable[str] = ("query", "key", "value", "output")) -> Shapes:
    """Of a block with attention, an MLP and two layer norms (models/layers/encoder.py)."""
    return within(
        attention=within(**{name: linear(width, width) for name in projections}),
        attention_norm=norm(width),
        mlp=within(expand=linear(width, hidden), contract=linear(hidden, width)),
        mlp_norm=norm(width),
    )


def elements(shapes: Mapping[str, Shape]) -> int:
    """Number of all weights."""
    return sum(prod(shape) for shape in shapes.values())


def units(shapes: Mapping[str, Shape], paths: Iterable[str]) -> tuple[Unit, ...]:
    """Units by their paths, each with the parameters below it."""
    sizes = dict.fromkeys(paths, 0)
    for name, shape in shapes.items():
        sizes[next(path for path in sizes if name.startswith(f"{path}."))] += prod(shape)
    return tuple(Unit(path, size) for path, size in sizes.items())
