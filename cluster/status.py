"""How do runs stand, what did they print, how do two differ? Everything is read from run folders when it is asked.

A state is derived from a run's events and its lock, and is stored nowhere.
"""

import codecs
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ..jobs.events import Event, read
from ..jobs.history import history, state, summary_fields
from ..jobs.report.facts import Facts, gather, read_spec
from ..jobs.report.numbers import NONE, count, duration, fixed, plain
from ..jobs.run_folder import RunError, RunFolder, list_runs
from .summary import losses, step_seconds

POLL = 0.2  # seconds between two looks at a log
SHOWN = 12  # rows of a comparison's table of losses
COLUMNS = ("run", "state", "step", "loss", "validation", "throughput", "restarts", "begun")


def list_status(root: Path) -> list[dict[str, Any]]:
    """A row for each run in a folder, oldest first: JSON values.

    Only rank 0 and the supervisor are read, since every rank tells the same losses.
    """
    return [one_status(run) for run in list_runs(root)]


def one_status(run: RunFolder) -> dict[str, Any]:
    """The row of one run.

    Raises:
        RunError: it has a newer format.
    """
    record = history(read(run.events, (0, None)))
    steps = next((one.value for one in read_spec(run.spec) if (one.section, one.key) == ("train", "steps")), None)
    return {
        "run": run.name,
        "state": state(record, run.holder() is not None),
        "steps": steps,
        **summary_fields(record),
        "created": run.facts()["created"],
        "path": str(run.path),
    }


def status_text(rows: Sequence[dict[str, Any]]) -> str:
    """The rows as a table."""
    if not rows:
        return "no runs"
    return table(COLUMNS, [_status_row(row) for row in rows])


def _status_row(row: dict[str, Any]) -> list[str]:
    return [
        row["run"],
        row["state"],
        f"{row['step']:,}" + (f"/{row['steps']:,}" if row["steps"] else ""),
        fixed(row["loss"]),
        fixed(row["validation_loss"]),
        f"{count(row['tokens_per_second'])}/s" if row["tokens_per_second"] else NONE,
        str(row["restarts"]),
        time.strftime("%Y-%m-%d %H:%M", time.localtime(row["created"])),
    ]


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Aligned columns, two blanks between them; words to the left, figures to the right."""
    columns = list(zip(header, *rows, strict=True))
    widths = [max(map(len, column)) for column in columns]
    right = [any(cell[:1].isdigit() for cell in column[1:]) and index > 0 for index, column in enumerate(columns)]
    lines = (
        "  ".join(
            cell.rjust(width) if last else cell.ljust(width)
            for cell, width, last in zip(row, widths, right, strict=True)
        )
        for row in (header, *rows)
    )
    return "\n".join(line.rstrip() for line in lines)


def follow_log(run: RunFolder, rank: int, attempt: int | None = None, *, follow: bool = False) -> Iterator[str]:
    """What a rank printed, piece by piece.

    Args:
        attempt: which try; None: the newest and, with follow, each one that comes after it.
        follow: go on until no job is live on the run.

    Raises:
        RunError: that rank has written no log, and no job is live that could.
    """
    at = _newest_log(run, rank) if attempt is None else attempt
    if at is None and follow:
        at = _await_log(run, rank, 0)
    if at is None or not run.log(at, rank).exists():
        raise RunError(_no_log(run, rank, attempt))
    while at is not None:
        yield from _one_log(run, rank, at, follow)
        at = _await_log(run, rank, at + 1) if follow and attempt is None else None
        if at is not None:
            yield f"--- attempt {at} ---\n"


def _one_log(run: RunFolder, rank: int, attempt: int, follow: bool) -> Iterator[str]:
    """A log to its end; with follow, until a later attempt begins or no job is live."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    with run.log(attempt, rank).open("rb") as file:
        while True:
            over = not follow or run.holder() is None or run.next_attempt() > attempt + 1
            while piece := file.read(1 << 16):
                yield decoder.decode(piece)
            if over:
                return
            time.sleep(POLL)


def _await_log(run: RunFolder, rank: int, first: int) -> int | None:
    """The first attempt from that number on in which the rank has a log; None when no job is live that could write."""
    while True:
        live = run.holder() is not None
        found = [at for at in range(first, run.next_attempt()) if run.log(at, rank).exists()]
        if found or not live:
            return found[0] if found else None
        time.sleep(POLL)


def _newest_log(run: RunFolder, rank: int) -> int | None:
    return next((at for at in reversed(range(run.next_attempt())) if run.log(at, rank).exists()), None)


def _no_log(run: RunFolder, rank: int, attempt: int | None) -> str:
    names = sorted(path.name for path in run.logs.glob("attempt-*-rank-*.log"))
    which = "" if attempt is None else f" of attempt {attempt}"
    there = f"there are {names[0]} to {names[-1]}" if names else "no worker of it has started yet"
    return f"run {run.name} has no log of rank {rank}{which}; {there}"


def compare(one: RunFolder, other: RunFolder) -> dict[str, Any]:
    """What differs between two runs, and what came of it: JSON values.

    Raises:
        RunError: one of them has a newer format.
    """
    pair = gather(one), gather(other)
    common = _common(*pair)
    worst = max(common, key=lambda row: row["difference"], default=None)
    return {
        "runs": [facts.run.name for facts in pair],
        "states": [facts.state for facts in pair],
        "config": config_differences(*pair),
        "steps": [facts.record.step for facts in pair],
        "losses": common,
        "max_loss_difference": worst["difference"] if worst else None,
        "max_loss_difference_step": worst["step"] if worst else None,
        "validation_loss": [losses(facts)["validation_loss"] for facts in pair],
        "tokens_per_second": [facts.pace for facts in pair],
        "step_seconds": [step_seconds(facts) for facts in pair],
        "wall_seconds": [facts.account.wall for facts in pair],
    }


def config_differences(one: Facts, other: Facts) -> dict[str, list[Any]]:
    """ "section.key" -> both values, None where one has no such value; run.name does not count."""
    values = [{f"{each.section}.{each.key}": each.value for each in facts.spec} for facts in (one, other)]
    names = dict.fromkeys((*values[0], *values[1]))
    pairs = {name: [each.get(name) for each in values] for name in names if name != "run.name"}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def _common(one: Facts, other: Facts) -> list[dict[str, Any]]:
    """The losses at every step that both made."""
    mine, theirs = (_losses(facts.record.curve) for facts in (one, other))
    return [
        {"step": step, "losses": [loss, theirs[step]], "difference": abs(loss - theirs[step])}
        for step, loss in mine.items()
        if step in theirs
    ]


def _losses(curve: Sequence[Event]) -> dict[int, float]:
    return {step["step"]: step["loss"] for step in curve if step.get("loss") is not None}


def compare_text(found: dict[str, Any]) -> str:
    """The comparison as three tables."""
    one, other = found["runs"]
    figures = [
        ["state", *found["states"]],
        ["steps", *(f"{steps:,}" for steps in found["steps"])],
        ["validation loss", *(fixed(loss, 4) for loss in found["validation_loss"])],
        ["throughput", *(f"{count(pace)}/s" if pace else NONE for pace in found["tokens_per_second"])],
        ["step", *(duration(seconds) for seconds in found["step_seconds"])],
        ["wall time", *(duration(seconds) for seconds in found["wall_seconds"])],
    ]
    config = [[name, _value(pair[0]), _value(pair[1])] for name, pair in found["config"].items()]
    parts = [
        table(["", one, other], figures),
        table(["configuration", one, other], config) if config else "the two jobs are equal",
        _losses_text(found),
    ]
    return "\n\n".join(parts)


def _losses_text(found: dict[str, Any]) -> str:
    rows = found["losses"]
    if not rows:
        return "no step in common"
    chosen = sorted({round(index * (len(rows) - 1) / (SHOWN - 1)) for index in range(SHOWN)})
    cells = [
        [f"{row['step']:,}", *(fixed(loss, 6) for loss in row["losses"]), plain(row["difference"], 3)]
        for row in (rows[index] for index in chosen)
    ]
    worst = f"largest difference of the training loss: {plain(found['max_loss_difference'], 3)}"
    where = f" at step {found['max_loss_difference_step']:,}, over {len(rows):,} common steps"
    return f"{table(['step', *found['runs'], 'difference'], cells)}\n\n{worst}{where}"


def _value(value: Any) -> str:
    return NONE if value is None else str(value)
