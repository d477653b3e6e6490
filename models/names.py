"""How are a model's tensors and sizes called elsewhere? By tables of names, read in both directions. Torch-free.

Nothing is passed over in silence: what is missing, or what a table does not know, is named.
"""

from collections.abc import Mapping
from typing import Any, TypeVar

T = TypeVar("T")


def renamed(tensors: Mapping[str, T], names: Mapping[str, str], model: str) -> dict[str, T]:
    """The tensors under new names.

    Args:
        names: the name that a tensor has -> the one it gets.
        model: for the error's sentence.

    Raises:
        ValueError: a tensor is missing, or one is not in the table.
    """
    missing, foreign = names.keys() - tensors.keys(), tensors.keys() - names.keys()
    for problem, odd in (("lack", missing), (f"are not {model}'s:", foreign)):
        if odd:
            raise ValueError(f"the tensors {problem} {', '.join(sorted(odd)[:4])} ({len(odd)} in all)")
    return {new: tensors[name] for name, new in names.items()}


def parameters_of(modules: Mapping[str, str], *kinds: str) -> dict[str, str]:
    """A table of parameters out of one of modules; kinds are "weight", "bias"."""
    return {f"{ours}.{kind}": f"{theirs}.{kind}" for ours, theirs in modules.items() for kind in kinds}


def turned(names: Mapping[str, str]) -> dict[str, str]:
    """The table of the other direction."""
    return {theirs: ours for ours, theirs in names.items()}


def read_sizes(
    values: Mapping[str, Any], sizes: Mapping[str, str], fixed: Mapping[str, Any], model: str
) -> dict[str, Any]:
    """The fields of our config, from the contents of a config.json.

    Args:
        sizes: our name -> theirs; fixed: what the model always does, in their words.

    Raises:
        ValueError: a size is missing, or the file describes a variant that the model is not.
    """
    if missing := [theirs for theirs in sizes.values() if theirs not in values]:
        raise ValueError(f"the config lacks {', '.join(missing)}")
    for name, value in fixed.items():
        if name in values and values[name] != value:
            raise ValueError(f"the config says {name}={values[name]!r}; this {model} only knows {value!r}")
    return {ours: values[theirs] for ours, theirs in sizes.items()}
