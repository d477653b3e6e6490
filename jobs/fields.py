"""Which keys does a job file have, and what may stand behind each? Read off the option types, never listed twice.

A section is a frozen dataclass, a key one of its fields; type hints and metadata (see trainers/options.option) say
what is legal. Used by the loader, the schema, the template and the printing alike.
"""

import math
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, fields
from difflib import get_close_matches
from types import MappingProxyType, NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from .spec import JobSpec

WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text", dict: "a table"}
LIMITS = {"minimum": "at least", "above": "more than", "maximum": "at most", "below": "less than"}
FINITE = sys.float_info.max  # compared, not converted: a whole number of 400 digits is no float; nan fails too
NO_SECTIONS: Mapping[str, type] = MappingProxyType({})


@dataclass(frozen=True)
class Key:
    """One key of one section."""

    section: str
    name: str
    hint: Any
    default: Any
    limits: Mapping[str, Any]  # the field's metadata

    @property
    def dotted(self) -> str:
        """Such as train.steps."""
        return f"{self.section}.{self.name}"

    @property
    def help(self) -> str:
        """One line for a person."""
        return str(self.limits.get("help", ""))

    @property
    def open(self) -> bool:
        """Whether the value is a table whose keys are not known here."""
        return self.hint is dict or get_origin(self.hint) is dict

    @property
    def forms(self) -> tuple[Any, ...]:
        """The types a value may have; "not given" (None) is not among them."""
        return forms(self.hint)


def forms(hint: Any) -> tuple[Any, ...]:
    """The members of a union, None left out."""
    members = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    return tuple(member for member in members if member is not NoneType)


def section_types(launchers: Mapping[str, type] = NO_SECTIONS) -> dict[str, type]:
    """Section name -> option type: those of JobSpec, then those of the launchers."""
    hints = get_type_hints(JobSpec)
    own = {each.name: hints[each.name] for each in fields(JobSpec) if each.name != "launchers"}
    return {**own, **launchers}


def keys(section: str, options: type) -> dict[str, Key]:
    """Key name -> what may stand there, in the order of the fields."""
    hints = get_type_hints(options)
    return {
        each.name: Key(section, each.name, hints[each.name], default_of(each), each.metadata)
        for each in fields(options)
    }


def default_of(field: Field[Any]) -> Any:
    """The default value of a dataclass field."""
    return field.default if field.default_factory is MISSING else field.default_factory()


def purpose(options: type) -> str:
    """What a section is for: its type's docstring behind "[name]: "."""
    first = (options.__doc__ or "").strip().partition("\n")[0]
    return re.sub(r"^\[\w+\]:?\s*", "", first)


def legal(key: Key) -> str:
    """What may stand behind a key, in words: 'a whole number or "auto", at least 1'."""
    if choices := key.limits.get("choices"):
        words, _ = key.limits.get("otherwise", ("", ""))
        return ", ".join([*map(literal_word, choices), *([words] if words else [])])
    bounds = [f"{word} {key.limits[limit]}" for limit, word in LIMITS.items() if limit in key.limits]
    words = [form_word(form) for form in key.forms if get_origin(form) is not Literal]
    fixed = [literal_word(value) for form in key.forms if get_origin(form) is Literal for value in get_args(form)]
    plain = " or ".join([*words, *fixed])
    return ", ".join([plain, " and ".join(bounds)] if bounds else [plain])


def article(key: Key) -> str:
    """What stands before a list of choices."""
    return "one of " if "choices" in key.limits else ""


def form_word(form: Any) -> str:
    """A type in words."""
    if get_origin(form) is tuple:
        return f"a list of {len(get_args(form))} numbers"
    return WORDS[get_origin(form) or form]


def literal_word(value: Any) -> str:
    """A legal value as it is written in the file."""
    return f'"{value}"' if isinstance(value, str) else str(value).lower() if isinstance(value, bool) else str(value)


def convert(key: Key, value: Any) -> Any:
    """The value in its field's type; a whole number may stand for a number, a list for a tuple.

    Raises:
        ValueError: a wrong type, or outside the limits; the message says what is legal.
    """
    for form in key.forms:
        if fits(form, value):
            converted = shaped(form, value)
            break
    else:
        raise ValueError(f"expected {article(key)}{legal(key)}{remedy(key, value)}")
    if not within(key.limits, converted):
        raise ValueError(f"expected {article(key)}{legal(key)}{nearest(similar(value, key.limits.get('choices', ())))}")
    return converted


def fits(form: Any, value: Any) -> bool:
    """Whether a value read from TOML (or Python) is of a type; true is no number."""
    if get_origin(form) is Literal:
        return any(value == each and type(value) is type(each) for each in get_args(form))
    if get_origin(form) is tuple:
        members = get_args(form)
        return isinstance(value, list | tuple) and len(value) == len(members) and all(map(fits, members, value))
    if form is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= FINITE
    if form is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, Mapping if get_origin(form) is dict else form)


def shaped(form: Any, value: Any) -> Any:
    """The value as its field holds it."""
    if get_origin(form) is tuple:
        return tuple(map(shaped, get_args(form), value))
    return float(value) if form is float else value


def within(limits: Mapping[str, Any], value: Any) -> bool:
    """Whether a value of the right type is inside its limits; a fixed word such as "auto" has none."""
    if isinstance(value, tuple):
        return all(within(limits, each) for each in value)
    if "choices" in limits:
        _, pattern = limits.get("otherwise", ("", None))
        return value in limits["choices"] or bool(pattern and re.fullmatch(pattern, value))
    if not isinstance(value, int | float) or isinstance(value, bool):
        return True
    inside = limits.get("minimum", -math.inf) <= value <= limits.get("maximum", math.inf)
    return bool(inside and limits.get("above", -math.inf) < value < limits.get("below", math.inf))


def similar(word: Any, known: Iterable[Any]) -> list[str]:
    """The nearest spelling of a word, if there is one."""
    return get_close_matches(str(word), [str(each) for each in known], n=1)


def nearest(words: Sequence[str]) -> str:
    """What was probably meant, as the end of a message."""
    return f"; did you mean {' or '.join(words)}?" if words else ""


def remedy(key: Key, value: Any) -> str:
    """How the value was probably meant, or nothing."""
    if int in key.forms and isinstance(value, float) and value.is_integer():
        return f" (write {int(value):_})"
    if str in key.forms and isinstance(value, int | float) and "choices" not in key.limits:
        return f' (write "{value}", with the quotes)'
    return ""
