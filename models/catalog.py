"""Which architectures are there, with which sizes, and how can each be split? Answered without torch.

An entry of the catalog and one of the user's own, named "package.module:object", are found by the same function.
"""

from collections.abc import Iterable, Mapping
from dataclasses import fields, replace
from difflib import get_close_matches
from math import gcd
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from .entry import Entry, load_object

ENTRIES: Mapping[str, str] = {
    "perceptron": "shardwright.models.perceptron.entry:ENTRY",
    "mlp": "shardwright.models.mlp.entry:ENTRY",
    "resnet18": "shardwright.models.resnet18.entry:ENTRY",
    "vae": "shardwright.models.vae.entry:ENTRY",
    "seq2seq": "shardwright.models.seq2seq.entry:ENTRY",
    "lstm": "shardwright.models.lstm.entry:ENTRY",
    "gpt2": "shardwright.models.gpt2.entry:ENTRY",
    "llama": "shardwright.models.llama.entry:ENTRY",
    "mixtral": "shardwright.models.mixtral.entry:ENTRY",
    "bert": "shardwright.models.bert.entry:ENTRY",
    "t5": "shardwright.models.t5.entry:ENTRY",
    "longformer": "shardwright.models.longformer.entry:ENTRY",
    "vit": "shardwright.models.vit.entry:ENTRY",
    "gat": "shardwright.models.gat.entry:ENTRY",
    "rbm": "shardwright.models.rbm.entry:ENTRY",
    "wgan_gp": "shardwright.models.wgan_gp.entry:ENTRY",
    "maml": "shardwright.models.maml.entry:ENTRY",
    "neural_ode": "shardwright.models.neural_ode.entry:ENTRY",
    "ddpm": "shardwright.models.ddpm.entry:ENTRY",
    "dqn": "shardwright.models.dqn.entry:ENTRY",
    "ppo": "shardwright.models.ppo.entry:ENTRY",
    "simclr": "shardwright.models.simclr.entry:ENTRY",
    "byol": "shardwright.models.byol.entry:ENTRY",
}
SPLITS = ("tensor", "pipeline", "context", "expert")  # axes that cut a model; the others copy or shard it


def find(name: str) -> Entry:
    """The entry of a catalog name, or the Entry that "package.module:object" names.

    Raises:
        ValueError: there is no such entry, module or object, or the object is no Entry.
        ImportError: the module exists and fails to import something else.
    """
    if ":" not in name and name not in ENTRIES:
        raise ValueError(f"there is no model {name!r}{_nearest(name, ENTRIES)}, or package.module:object of your own")
    entry = _load(ENTRIES.get(name, name))
    if not isinstance(entry, Entry):
        raise ValueError(f"{name!r} is a {type(entry).__name__}, expected a shardwright.Entry")
    return entry if entry.name else replace(entry, name=name)


def _load(path: str) -> Any:
    try:
        return load_object(path)
    except ModuleNotFoundError as error:
        module = path.partition(":")[0]
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise
        raise ValueError(f"{path!r}: there is no module {error.name!r} on the import path") from None


def configure(entry: Entry, preset: str = "", overrides: Mapping[str, Any] | None = None) -> Any:
    """The sizes of a preset ("" is the first one), some of them replaced; None for an entry without a config.

    Raises:
        ValueError: an unknown preset or size, a value of the wrong type, or sizes that the config refuses.
    """
    overrides = overrides or {}
    if preset and preset not in entry.presets:
        raise ValueError(f"{entry.name} has no preset {preset!r}{_nearest(preset, entry.presets)}")
    if entry.config is None:
        if overrides:
            raise ValueError(f"{entry.name} has no config, so {', '.join(overrides)} cannot be set")
        return None
    hints = _hints(entry.config)
    for name in overrides:
        if name not in hints:
            raise ValueError(f"{entry.name} has no size {name!r}{_nearest(name, hints)}")
    values = {name: _typed(value, hints[name], name) for name, value in overrides.items()}
    chosen = preset or next(iter(entry.presets), "")
    return replace(entry.presets[chosen], **values) if chosen else entry.config(**values)


def _hints(config: type) -> dict[str, Any]:
    """Type of each field that can be set."""
    hints = get_type_hints(config)
    return {field.name: hints[field.name] for field in fields(config) if field.init}


def _typed(value: Any, hint: Any, name: str) -> Any:
    """The value as the type that is hinted at: an int may stand for a float, a list for a tuple; nothing else bends."""
    origin, parts = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return _first_fit(value, parts, hint, name)
    if origin is Literal and value in parts and type(value) in {type(part) for part in parts}:
        return value
    if origin is tuple and isinstance(value, list | tuple):
        each = parts[:1] * len(value) if parts[1:] == (...,) else parts
        if len(each) == len(value):
            return tuple(_typed(part, one, name) for part, one in zip(value, each, strict=True))
    if hint is float and type(value) is int:
        return float(value)
    if hint is Any or (isinstance(hint, type) and type(value) is hint):
        return value
    raise ValueError(f"{name}={value!r} is not of type {_words(hint)}")


def _first_fit(value: Any, parts: Iterable[Any], hint: Any, name: str) -> Any:
    for part in parts:
        try:
            return _typed(value, part, name)
        except ValueError:
            continue
    raise ValueError(f"{name}={value!r} is not of type {_words(hint)}")


def _words(hint: Any) -> str:
    return hint.__name__ if isinstance(hint, type) and not get_args(hint) else str(hint).replace("typing.", "")


def _nearest(word: str, known: Iterable[str]) -> str:
    """ " (did you mean 'x'? known: a, b)"."""
    known = list(known)
    close = get_close_matches(word, known, n=1)
    meant = f"did you mean {close[0]!r}? " if close else ""
    return f" ({meant}known: {', '.join(known) or 'none'})"


def legal(entry: Entry, config: Any) -> dict[str, tuple[int, ...] | str]:
    """For each axis that cuts a model its legal degrees, or the sentence why there is only degree 1."""
    return {axis: _refusal(entry, axis) or _degrees(entry, config, axis) for axis in SPLITS}


def _refusal(entry: Entry, axis: str) -> str:
    if axis in entry.refusals:
        return entry.refusals[axis]
    if axis == "tensor" and (entry.tensor is None or axis not in entry.divides):
        missing = "tensor plan" if entry.tensor is None else 'size to divide (divides={"tensor": ...})'
        return f"{entry.name} has no {missing}, so only tensor=1 is possible"
    if axis == "pipeline" and (entry.units is None or entry.boundary is None):
        return f"{entry.name} names no units and boundary to cut it at, so only pipeline=1 is possible"
    if axis == "context" and not entry.context:
        return f"{entry.name} names no batch tensors whose tokens could be split, so only context=1 is possible"
    if axis == "ulysses" and axis not in entry.divides:
        return f"{entry.name} names no heads to swap for tokens, so its tokens meet by attention=gather only"
    if axis == "expert" and not entry.experts:
        return f"{entry.name} has no experts, so only expert=1 is possible"
    return ""


def _degrees(entry: Entry, config: Any, axis: str) -> tuple[int, ...]:
    """A pipeline has at most one stage a unit; other degrees divide the sizes that the entry names. (): any degree."""
    if axis == "pipeline" and entry.units is not None:
        return tuple(range(1, len(entry.units(config)) + 1))
    sizes = [getattr(config, name) for name in _divided(entry, axis)]
    common = gcd(*sizes)
    return tuple(degree for degree in range(1, common + 1) if common % degree == 0)


def _divided(entry: Entry, axis: str) -> tuple[str, ...]:
    """The config's sizes that the degree of an axis must divide."""
    named = entry.divides.get(axis, ())
    return (named,) if isinstance(named, str) else named


def refusal(entry: Entry, config: Any, axis: str, degree: int) -> str:
    """Why a degree of an axis is not possible, or "" where it is."""
    if degree == 1:
        return ""
    if why := _refusal(entry, axis):
        return f"{axis}={degree}: {why}"
    legal = _degrees(entry, config, axis)
    if not legal or degree in legal:
        return ""
    for name in _divided(entry, axis):
        if (size := getattr(config, name)) % degree:
            return f"{axis}={degree} does not divide {name}={size} (legal: {', '.join(map(str, legal))})"
    return f"{axis}={degree} is more than the {len(legal)} units of {entry.name} (legal: 1 to {len(legal)})"


def listing() -> list[dict[str, Any]]:
    """What `shardwright models --json` prints: of each entry its name, paper and presets."""
    return [_describe(find(name)) for name in ENTRIES]


def _describe(entry: Entry) -> dict[str, Any]:
    presets = {
        name: {"parameters": entry.parameters(config) if entry.parameters else None, **legal(entry, config)}
        for name, config in entry.presets.items()
    }
    return {"name": entry.name, "paper": entry.paper, "presets": presets}
