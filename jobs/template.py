"""What does a first job file look like? Every key with its help and its legal values.

Invariant: the file loads as it is and, but for the few values that stand open, changes no default.
"""

from collections.abc import Mapping
from typing import Any

from .fields import NO_SECTIONS, Key, keys, legal, purpose, section_types
from .show import literal

HEAD = """\
# A job for Shardwright: `shardwright run FILE` trains it, `shardwright config FILE` prints every value and its origin.
# A line that starts with "#key = " shows a default; remove the "#" to change it here.
# extends = ["base.toml"] above the first section reads other job files first.
"""
STATED: Mapping[str, Any] = {"train.steps": 100}  # what has no default, but must be said
SHOWN = ("model.name", "train.steps", "train.global_batch", "resources.workers")


def job_template(launchers: Mapping[str, type] = NO_SECTIONS) -> str:
    """The text of a commented job file."""
    sections = [section_text(name, options) for name, options in section_types(launchers).items()]
    return "\n".join([HEAD, *sections])


def section_text(name: str, options: type) -> str:
    """One section: what it is for, then its keys; a table of its own comes last."""
    known = list(keys(name, options).values())
    plain = [key_text(key) for key in known if not key.open]
    return "\n".join(
        [f"# --- {purpose(options)}", f"[{name}]", *plain, *(table_text(key) for key in known if key.open), ""]
    )


def key_text(key: Key) -> str:
    """A key under its help: stated where a person will want to change it, else as a comment with its default."""
    value = STATED.get(key.dotted, key.default)
    if value is None:
        return f"# {key.name}: {key.help} ({legal(key)})"
    mark = "" if key.dotted in SHOWN else "#"
    return f"# {key.help} ({legal(key)})\n{mark}{key.name} = {literal(value)}"


def table_text(key: Key) -> str:
    """An open table."""
    return f"\n# {key.help}\n#[{key.dotted}]"
