"""Where did the time go, and what went wrong? Bars for seconds, a lane for each attempt, a block for each failure."""

from collections.abc import Iterable

from ..account import LOST, RECOVERY, UNEXPLAINED, sessions
from ..events import Event
from ..history import Attempt, own_seconds, warm
from .facts import Facts
from .numbers import duration, memory, several, share, text
from .scale import quantile

COLORS = {
    "compute": "blue", "optimizer": "blue-2", "data": "teal", "snapshot": "purple-2", "checkpoint": "purple",
    "eval": "orange", "report": "grey-2", "sample": "green", RECOVERY: "red", LOST: "red-2", UNEXPLAINED: "hatch",
}  # fmt: skip
OTHERS = ("grey", "grey-2", "grey-3")  # start-up, build, restore and whatever phases a launcher adds
MOST_RANKS = 32  # rows of a table of ranks; with more, the slowest are shown


def time_spent(facts: Facts) -> str:
    """One bar of 100 % of the wall time, its table, and a bar for each rank."""
    account = facts.account
    if not account.wall:
        return ""
    colors = palette(account.seconds)
    order = sorted(account.seconds, key=lambda name: (name == UNEXPLAINED, -account.seconds[name]))
    rows = "".join(
        f'<tr><td><i class="swatch {colors[name]}"></i>{text(name)}</td><td>{duration(account.seconds[name])}</td>'
        f"<td>{share(account.seconds[name] / account.wall)}</td></tr>"
        for name in order
    )
    ranks = "".join(
        f"<li><span>rank {rank}</span>{bar(spent, [name for name in order if name in spent], colors)}</li>"
        for rank, spent in list(account.ranks.items())[:MOST_RANKS]
    )
    return (
        f'<section class="card"><h3>Where the time went</h3><small>{duration(account.wall)} of wall time, mean over '
        f"ranks; {share(account.unexplained)} unexplained</small>{bar(account.seconds, order, colors, 'big')}"
        f'<div class="split"><table class="spent"><tbody>{rows}</tbody></table><ul class="ranks">{ranks}</ul></div>'
        "</section>"
    )


def palette(names: Iterable[str]) -> dict[str, str]:
    """A color class for each name; names nobody foresaw share greys."""
    others = [name for name in sorted(names) if name not in COLORS]
    return COLORS | {name: OTHERS[index % len(OTHERS)] for index, name in enumerate(others)}


def bar(seconds: dict[str, float], order: Iterable[str], colors: dict[str, str], size: str = "") -> str:
    """A stacked bar whose parts sum to its whole length."""
    whole = sum(seconds.values()) or 1.0
    parts = "".join(
        f'<i class="{colors[name]}" style="width:{seconds[name] / whole:.4%}" '
        f'title="{text(name)}: {duration(seconds[name])}, {share(seconds[name] / whole)}"></i>'
        for name in order
    )
    return f'<div class="bar {size}" role="img" aria-label="time by phase">{parts}</div>'


def attempts(facts: Facts) -> str:
    """A lane for each attempt on one axis of active time; pauses without a job are cut out."""
    tries = facts.record.attempts
    if not tries:
        return ""
    active = Active(facts)
    lanes = "".join(_lane(attempt, active, facts.state) for attempt in tries)
    return (
        f'<section class="card"><h3>Attempts</h3><small>{several(len(tries), "attempt")}, '
        f"{several(facts.record.restarts, 'restart')}, "
        f"{several(facts.record.steps_lost, 'step')} computed twice</small>"
        f'<ol class="lanes">{lanes}</ol></section>'
    )


class Active:
    """Time since the start without the pauses in which no job was live."""

    def __init__(self, facts: Facts) -> None:
        self.sessions = sessions(facts.record.attempts)
        self.whole = sum(session.end - session.begin for session in self.sessions) or 1.0

    def at(self, t: float) -> float:
        """The fraction of the active time that has passed at t."""
        passed = sum(max(0.0, min(t, session.end) - session.begin) for session in self.sessions)
        return min(1.0, passed / self.whole)


def _lane(attempt: Attempt, active: Active, state: str) -> str:
    begin, end = active.at(attempt.begin), active.at(attempt.end)
    outcome = text(attempt.outcome or ("running" if state == "running" else "interrupted"))
    crosses = "".join(f'<i class="cross" style="left:{active.at(death.t):.2%}"></i>' for death in attempt.deaths)
    place = f"left:{begin:.2%};width:{max(end - begin, 0.004):.2%}"
    said = f"{_begun(attempt)}, reached step {attempt.reached:,} in {duration(attempt.end - attempt.begin)}"
    return (
        f'<li><div class="said"><b>Attempt {attempt.number}</b> <span>{said}</span>'
        f'<em class="pill {outcome}">{outcome}</em></div>'
        f'<div class="lane"><i class="{outcome}" style="{place}"></i>{crosses}</div>'
        f"{_deaths(attempt.deaths)}</li>"
    )


def _begun(attempt: Attempt) -> str:
    if attempt.source == "scratch":
        return "from scratch"
    verb = "restarted" if attempt.continues else "resumed"
    return f"{verb} from a {text(attempt.source)} at step {attempt.from_step:,}"


def _deaths(deaths: list[Event]) -> str:
    """A line for each cause; the ranks that died only because a peer did share one."""
    causes = "".join(map(_death, [death for death in deaths if not death.get("victim")]))
    victims = ", ".join(str(death["rank"]) for death in deaths if death.get("victim"))
    return causes + (f'<p class="death">victims, which lost a peer: {text(victims)}</p>' if victims else "")


def _death(death: Event) -> str:
    where = f", phase {death.get('phase')}" if death.get("phase") else ""
    step = f", step {death.get('step'):,}" if death.get("step") is not None else ""
    cause = f"rank {death.get('rank')}: {death.get('cause', 'unknown cause')}{where}{step}"
    return f'<p class="death">{text(cause)}</p>'


def failures(facts: Facts) -> str:
    """What workers raised; ranks with equal tracebacks share a block, ranks that only lost a peer have none."""
    victims = {(death.attempt, death["rank"]) for death in facts.record.of("death") if death.get("victim")}
    groups: dict[tuple[int, str, str], list[Event]] = {}
    for failure in facts.record.of("failure"):
        if (failure.attempt, failure.rank) not in victims:
            key = failure.attempt, str(failure.get("type")), str(failure.get("traceback"))
            groups.setdefault(key, []).append(failure)
    return "".join(_failure(events) for events in groups.values())


def _failure(events: list[Event]) -> str:
    first = events[0]
    ranks = ", ".join(str(rank) for rank in sorted({event.get("rank", event.rank) for event in events}))
    hosts = ", ".join(sorted({str(event.get("host")) for event in events if event.get("host")}))
    who = f"{'rank' if len(events) == 1 else 'ranks'} {ranks}{f' on {hosts}' if hosts else ''}"
    where = f"attempt {first.attempt}, {who}, phase {first.get('phase')}, step {first.get('step')}"
    return (
        f'<section class="card failure"><h3>{text(first.get("type", "Failure"))}: {text(first.get("message", ""))}</h3>'
        f"<small>{text(where)}</small>"
        f"<details open><summary>Traceback</summary><pre>{text(first.get('traceback', ''))}</pre></details></section>"
    )


def ranks(facts: Facts) -> str:
    """Seconds of a step by rank: a bar from the 5th to the 95th percentile, a dot at the median."""
    timed = {rank: [own_seconds(step) for step in warm(steps)] for rank, steps in facts.record.steps.items()}
    timed = {rank: values for rank, values in timed.items() if values}
    if not timed:
        return ""
    spread = {rank: (quantile(v, 0.05), quantile(v, 0.5), quantile(v, 0.95)) for rank, v in timed.items()}
    low, high = min(s[0] for s in spread.values()), max(s[2] for s in spread.values())
    low, high = (low, high) if high > low else (low * 0.9, high * 1.1)
    shown = sorted(sorted(spread, key=lambda rank: -spread[rank][1])[:MOST_RANKS])
    peaks = {rank: _peak(facts, rank) for rank in shown}
    rows = "".join(_rank(facts, rank, spread[rank], low, high, peaks[rank]) for rank in shown)
    some = f", the slowest {MOST_RANKS} ranks" if len(spread) > MOST_RANKS else ""
    last = "<th>peak memory</th>" if any(peaks.values()) else ""
    return (
        '<section class="card"><h3>Step time by rank</h3><small>bar: 5th to 95th percentile, dot: median; '
        f'from {duration(low)} to {duration(high)}{some}</small><table class="steps"><thead><tr><th>rank</th><th></th>'
        f"<th>median</th><th>95th</th>{last}</tr></thead><tbody>{rows}</tbody></table></section>"
    )


def _peak(facts: Facts, rank: int) -> int | None:
    return max((step["peak_bytes"] for step in facts.record.steps[rank] if step.get("peak_bytes")), default=None)


def _rank(
    facts: Facts, rank: int, spread: tuple[float, float, float], low: float, high: float, peak: int | None
) -> str:
    left, middle, right = ((value - low) / (high - low) for value in spread)
    host = next((event.get("host") for event in facts.record.of("start") if event.rank == rank), None)
    return (
        f'<tr><td title="{text(host or "")}">{rank}</td><td class="range"><div>'
        f'<i style="left:{left:.2%};width:{right - left:.2%}"></i><b style="left:{middle:.2%}"></b></div></td>'
        f"<td>{duration(spread[1])}</td><td>{duration(spread[2])}</td>{f'<td>{memory(peak)}</td>' if peak else ''}</tr>"
    )
