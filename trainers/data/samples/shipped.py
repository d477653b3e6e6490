"""Which real data sets come inside a library, so that a job can name them without a download? Without the libraries.

Each has a file here of its own name, whose `load()` gives the training side, with the held-out side in `held_out`.
"""

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # it loads numpy
    from .arrays import Samples

SHIPPED = {  # data.name -> the library that it comes in
    "digits": "sklearn",
    "digits_few_shot": "sklearn",
    "iris": "sklearn",
    "breast_cancer": "sklearn",
    "sunspots": "statsmodels",
    "karate": "networkx",
    "les_miserables": "networkx",
}


def check_library(name: str) -> None:
    """Stop if the library that a data set comes in is not on this machine; nothing is imported.

    Raises:
        ValueError: it is not.
    """
    if find_spec(SHIPPED[name]) is None:
        raise ValueError(
            f"data.name = {name!r} comes inside {SHIPPED[name]}, which is not installed: "
            "install shardwright with the extra `data`"
        )


def load_shipped(name: str) -> "Samples":
    """The training side of a data set.

    Raises:
        ValueError: its library is not installed.
    """
    check_library(name)
    training: Samples = import_module(f".{name}", __package__).load()
    return training
