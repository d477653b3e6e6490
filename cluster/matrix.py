"""Which entry can be laid out how? Every entry under every usual strategy: the measured differences or the sentence.

The matrix is kept as docs/support-matrix.json, and a cell that was proved once must stay so.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ..models.catalog import ENTRIES, configure, find
from ..models.entry import Entry
from ..trainers.layout import Layout, parse_strategy
from ..trainers.legal import refusal
from ..trainers.options import OptimizerOptions
from .pool import Pool
from .verify import ENGINES, STRATEGIES, Verdict, Verification, judge_all, payload_of, refused

FIGURES = ("loss_diff", "grad_diff", "weight_diff", "update_diff")
NOISE = 1e-6  # a difference below this is rounding, however much it grew
GROWTH = 10.0  # times that a difference above it may grow before the cell counts as worse


@dataclass(frozen=True)
class Matrix:
    """Verifications of several entries, each over the same strategies."""

    models: tuple[Verification, ...]
    sources: Mapping[str, str] = field(default_factory=dict)  # entry -> hash of the code that was verified

    @property
    def ok(self) -> bool:
        """Whether no cell failed; a refused one is neither ok nor failed."""
        return all(one.ok for one in self.models)

    def to_json(self) -> str:
        """{"models": [{"name", "source", "strategies": [as `verify model --json`]}]}."""
        rows = [
            {
                "name": one.model,
                "source": self.sources.get(one.model, ""),
                "strategies": [asdict(verdict) for verdict in one.strategies],
            }
            for one in self.models
        ]
        return json.dumps({"models": rows}, indent=1) + "\n"


def read(text: str) -> Matrix:
    """The matrix of a JSON text.

    Raises:
        ValueError: it is none.
    """
    try:
        rows = json.loads(text)["models"]
        models = [Verification(one["name"], tuple(Verdict(**cell) for cell in one["strategies"])) for one in rows]
        return Matrix(tuple(models), {one["name"]: one["source"] for one in rows})
    except (KeyError, TypeError) as error:
        raise ValueError(f"no support matrix: {error}") from error


def support_matrix(
    models: Iterable[str] = tuple(ENTRIES),
    strategies: Sequence[str] = (*STRATEGIES, *ENGINES),
    found: Callable[[str, Verdict], None] = lambda model, verdict: None,
) -> Matrix:
    """Verify entries under strategies, on this machine, each with its first preset and its own data.

    Args:
        found: called with an entry's name and each verdict as it comes.
    """
    names = list(models)
    with Pool(["shardwright.jobs.verify"]) as pool:
        rows = tuple(_row(pool, name, strategies, found) for name in names)
    return Matrix(rows, {name: source(name) for name in names})


def source(name: str) -> str:
    """A hash of an entry's own folder: a cell that was proved with another one is to be proved again."""
    module = ENTRIES[name].partition(":")[0]
    folder = Path(str(find_spec(module).origin)).parent  # type: ignore[union-attr]
    parts = [path.name.encode() + b"\0" + path.read_bytes() for path in sorted(folder.glob("*.py"))]
    return sha256(b"\0".join(parts)).hexdigest()[:16]


def _row(pool: Pool, name: str, strategies: Sequence[str], found: Callable[[str, Verdict], None]) -> Verification:
    entry = find(name)
    config = configure(entry)
    answers = {strategy: _layout(entry, config, strategy) for strategy in strategies}
    verdicts = {strategy: refused(strategy, why) for strategy, why in answers.items() if isinstance(why, str)}
    for verdict in verdicts.values():
        found(name, verdict)
    layouts = {strategy: layout for strategy, layout in answers.items() if isinstance(layout, Layout)}
    payload = payload_of(name, "", {}, "", OptimizerOptions())
    for verdict in judge_all(pool, layouts, payload, lambda verdict: found(name, verdict)):
        verdicts[verdict.name] = verdict
    return Verification(name, tuple(verdicts[strategy] for strategy in strategies))


def _layout(entry: Entry, config: Any, strategy: str) -> Layout | str:
    """The layout that a strategy names, or why the entry cannot be laid out so."""
    layout = parse_strategy(strategy)
    return refusal(entry, config, layout) or layout


def worse(before: Matrix, after: Matrix) -> Iterator[str]:
    """Cells of both matrices that were proved and are not any more, or whose difference grew, a sentence each."""
    known = cells(before)
    for key, new in cells(after).items():
        old = known.get(key)
        if old is None or not old.ok:
            continue
        name = f"{key[0]} under {key[1]}"
        if not new.ok:
            yield f"{name} was equal to one process and is not any more: {new.reason or figures(new)}"
        elif grown := [figure for figure in FIGURES if _grew(getattr(old, figure), getattr(new, figure))]:
            yield f"{name} is further from one process than it was: {', '.join(grown)} ({figures(new)})"


def cells(matrix: Matrix) -> dict[tuple[str, str], Verdict]:
    """(entry, strategy) -> verdict."""
    return {(one.model, verdict.name): verdict for one in matrix.models for verdict in one.strategies}


def figures(verdict: Verdict) -> str:
    """The four differences of a cell in words."""
    return ", ".join(f"{name} {getattr(verdict, name)!r}" for name in FIGURES)


def _grew(old: float | None, new: float | None) -> bool:
    return new is not None and new > NOISE and new > GROWTH * (old or 0.0)
