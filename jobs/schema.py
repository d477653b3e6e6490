"""What may an editor offer in a job file? The JSON Schema (draft 2020-12) of the same types the loader reads.

It holds for one file: a length may stand in the file it extends, so a file states at most one.
"""

from collections.abc import Mapping
from itertools import combinations
from typing import Any, Literal, get_args, get_origin

from ..trainers.options import LENGTHS
from .fields import NO_SECTIONS, Key, keys, purpose, section_types

TYPES = {int: "integer", float: "number", bool: "boolean", str: "string", dict: "object"}
LIMITS = {"minimum": "minimum", "maximum": "maximum", "above": "exclusiveMinimum", "below": "exclusiveMaximum"}


def job_schema(launchers: Mapping[str, type] = NO_SECTIONS) -> dict[str, Any]:
    """The schema of a job file; launchers adds sections, as in load_job."""
    sections = {name: section_schema(name, options) for name, options in section_types(launchers).items()}
    pairs = [{"required": list(pair)} for pair in combinations(LENGTHS, 2)]
    sections["train"]["not"] = {"anyOf": pairs}
    extends = {
        "type": "array",
        "items": {"type": "string"},
        "description": "job files that speak before this one, relative to it",
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Shardwright job",
        **table({"extends": extends, **sections}),
    }


def section_schema(name: str, options: type) -> dict[str, Any]:
    """One section; an unknown key is refused."""
    known = {key.name: key_schema(key) for key in keys(name, options).values()}
    return {"description": purpose(options), **table(known)}


def table(properties: Mapping[str, Any]) -> dict[str, Any]:
    """A table with these keys and no others."""
    return {"type": "object", "properties": dict(properties), "additionalProperties": False}


def key_schema(key: Key) -> dict[str, Any]:
    """One key: its forms, help and default."""
    shapes = [form_schema(form, key.limits) for form in key.forms]
    schema = {"description": key.help, **(shapes[0] if len(shapes) == 1 else {"anyOf": shapes})}
    return schema if key.default is None else {**schema, "default": key.default}


def form_schema(form: Any, limits: Mapping[str, Any]) -> dict[str, Any]:
    """One of the types that a value may have."""
    if get_origin(form) is Literal:
        return {"enum": list(get_args(form))}
    if get_origin(form) is tuple:
        items = [form_schema(member, limits) for member in get_args(form)]
        return {"type": "array", "prefixItems": items, "minItems": len(items), "maxItems": len(items)}
    if "choices" in limits:
        return choice_schema(form, limits)
    bounds = {word: limits[limit] for limit, word in LIMITS.items() if limit in limits}
    return {"type": TYPES[get_origin(form) or form], **bounds}


def choice_schema(form: Any, limits: Mapping[str, Any]) -> dict[str, Any]:
    """Fixed values, and perhaps a pattern of others."""
    choices = {"type": TYPES[form], "enum": list(limits["choices"])}
    if "otherwise" not in limits:
        return choices
    words, pattern = limits["otherwise"]
    return {"anyOf": [choices, {"type": "string", "description": words, "pattern": f"^(?:{pattern})$"}]}
