"""What does a report know? Everything is read once from the run folder; nothing is asked of the running job."""

import json
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..account import Account, account
from ..events import read
from ..history import History, Mfu, history, mfu, state, throughput
from ..lines import key_lines, remarks
from ..run_folder import RunFolder


@dataclass(frozen=True)
class Value:
    """One value of the resolved job."""

    section: str
    key: str
    value: Any
    origin: str

    @property
    def chosen(self) -> bool:
        """Whether a person said it."""
        return self.origin not in ("default", "")


@dataclass(frozen=True)
class Facts:
    """A run as its folder tells it."""

    run: RunFolder
    state: str
    about: dict[str, Any]  # run.json
    plan: dict[str, Any]
    spec: tuple[Value, ...]
    record: History
    account: Account

    def asked(self, dotted: str, default: Any = None) -> Any:
        """A value of the job, such as "train.steps"."""
        return next((one.value for one in self.spec if f"{one.section}.{one.key}" == dotted), default)

    def told(self, kind: str, field: str) -> Any:
        """A field of the newest event of a kind; None where it was never told."""
        event = self.record.last(kind)
        return event.get(field) if event else None

    @property
    def layout(self) -> str:
        """The layout's name as the workers, else the plan, tell it."""
        return str(self.told("start", "layout") or self.told("attempt", "layout") or self.plan.get("layout") or "")

    @property
    def steps(self) -> int | None:
        """Steps that the run is to make, as the job says or the workers have worked out."""
        steps: int | None = self.asked("train.steps") or self.told("resume", "steps")
        return steps

    @property
    def pace(self) -> float | None:
        """Tokens a second."""
        return throughput(self.record.curve)

    @property
    def items(self) -> str:
        """What a step's "tokens" are: tokens, or samples for data that has none."""
        step = next(iter(self.record.curve), None)
        return "samples" if step is not None and step.get("tokens") == step.get("samples") else "tokens"

    @property
    def mfu(self) -> Mfu | None:
        """Known only where the workers told both the step's FLOPs and the device's peak."""
        return mfu(self.record)

    @property
    def workers(self) -> int | None:
        """Worker processes of the newest attempt."""
        sizes = [attempt.world_size for attempt in self.record.attempts if attempt.world_size]
        return sizes[-1] if sizes else self.plan.get("workers")


def gather(run: RunFolder) -> Facts:
    """Read a run folder.

    Raises:
        RunError: it has a newer format.
    """
    record = history(read(run.events))
    about = run.facts()
    plan: dict[str, Any] = json.loads(run.plan.read_text())
    return Facts(
        run, state(record, run.holder() is not None), about, plan, read_spec(run.spec), record, account(record)
    )


def read_spec(path: Path) -> tuple[Value, ...]:
    """Every value of spec.toml with the origin that its comment names."""
    content = path.read_text(encoding="utf-8")
    lines, said = key_lines(content), remarks(content)
    return tuple(
        Value(at[0], ".".join(at[1:]), value, said.get(lines.get(at, 0), ""))
        for at, value in _leaves(tomllib.loads(content), ())
        if len(at) > 1
    )


def _leaves(tree: dict[str, Any], above: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, value in tree.items():
        if isinstance(value, dict) and value:
            yield from _leaves(value, (*above, name))
        else:
            yield (*above, name), value
