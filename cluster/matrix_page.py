"""How does the support matrix read? One table of entries by strategies, and below it every sentence why not."""

import re
from collections.abc import Sequence
from pathlib import Path

from .matrix import FIGURES, Matrix
from .verify import TOLERANCE, Verdict, Verification

HEAD = f"""# Support matrix

Every entry of the catalog under every usual strategy, compared with one process as [verify](verify.md) says. A number
is the largest of the four differences (losses over 5 steps or one cycle of phases, gradients relative to the largest,
weights after these steps of SGD with momentum, one update of AdamW); each must stay within {TOLERANCE:g}. A letter
stands for the sentence below that says why an entry cannot be laid out so; it is not a pass. Written by
`shardwright verify model --all`; the same figures stand in support-matrix.json.
"""


def page(matrix: Matrix) -> str:
    """The matrix as a page of Markdown."""
    strategies = [verdict.name for verdict in matrix.models[0].strategies]
    reasons = _letters(matrix)
    table = [_row(["entry", *strategies]), _row(["---"] * (len(strategies) + 1))]
    table += [_row([one.model, *(_cell(one, verdict, reasons) for verdict in one.strategies)]) for one in matrix.models]
    notes = [f"- **{letter}**: {reason}" for reason, letter in reasons.items()]
    return "\n".join([HEAD, *_counts(matrix, strategies), "", *table, "", "## Why not", "", *notes, ""])


def write(matrix: Matrix, folder: Path) -> Path:
    """Write support-matrix.md and support-matrix.json into a folder, each aside and renamed."""
    for name, text in (("support-matrix.json", matrix.to_json()), ("support-matrix.md", page(matrix))):
        aside = folder / f".{name}.new"
        aside.write_text(text)
        aside.replace(folder / name)
    return folder


def _counts(matrix: Matrix, strategies: Sequence[str]) -> list[str]:
    """How many entries hold under each strategy."""
    proved = {name: sum(v.ok for one in matrix.models for v in one.strategies if v.name == name) for name in strategies}
    words = ", ".join(f"{name} {number}" for name, number in proved.items())
    return [f"Entries that hold, of {len(matrix.models)}: {words}."]


def _row(words: Sequence[str]) -> str:
    return f"| {' | '.join(words)} |"


def _cell(one: Verification, verdict: Verdict, reasons: dict[str, str]) -> str:
    if verdict.refused:
        return reasons[_reason(one, verdict)]
    if not verdict.ok:
        return "**FAILED**"
    return f"{max(getattr(verdict, figure) for figure in FIGURES):.0e}"


def _letters(matrix: Matrix) -> dict[str, str]:
    """A short name for each sentence: a, b, ... z, aa, ab, ..."""
    found: dict[str, str] = {}
    for one in matrix.models:
        for verdict in one.strategies:
            if verdict.refused and (reason := _reason(one, verdict)) not in found:
                found[reason] = _letter(len(found))
    return found


def _reason(one: Verification, verdict: Verdict) -> str:
    """The sentence, without the entry's name, so that entries with the same reason share it."""
    return re.sub(rf"\b{one.model}\b", "the entry", verdict.reason)


def _letter(number: int) -> str:
    more, last = divmod(number, 26)
    return (_letter(more - 1) if more else "") + chr(ord("a") + last)
