"""How does a run look on one page? One HTML file that holds everything and fetches nothing.

Invariant: whatever a run is called and whatever a model prints, it is shown as text; a content security policy in the
page forbids every request besides.
"""

import time
from math import log
from pathlib import Path

from ..run_folder import RunFolder, publish
from ..show import literal
from .charts import all_charts
from .course import attempts, failures, ranks, time_spent
from .facts import Facts, Value, gather
from .numbers import count, duration, fixed, memory, several, share, text
from .script import SCRIPT
from .style import STYLE

POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"


def write(run: RunFolder) -> Path:
    """Write report.html of a run, live or not, and return its path.

    Raises:
        RunError: the run has a newer format.
    """
    publish(run.report, page(gather(run)))
    return run.report


def page(facts: Facts) -> str:
    """The whole file."""
    body = "".join(
        (
            header(facts), tiles(facts), failures(facts), all_charts(facts), time_spent(facts), attempts(facts),
            ranks(facts), sample(facts), configuration(facts), environment(facts), footer(facts),
        )
    )  # fmt: skip
    return (
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>{text(facts.run.name)} · Shardwright</title><style>{STYLE}</style></head>"
        f"<body><main>{body}</main><script>{SCRIPT}</script></body></html>\n"
    )


def header(facts: Facts) -> str:
    """Name, state and one sentence."""
    state = text(facts.state)
    return (
        f'<header><p class="over">Shardwright run</p><h1>{text(facts.run.name)}'
        f'<span class="pill {state}">{state}</span></h1><p class="lead">{sentence(facts)}</p></header>'
    )


def sentence(facts: Facts) -> str:
    """What was trained, on what, how far."""
    preset, parameters = facts.asked("model.preset"), facts.plan.get("parameters")
    model = f"<b>{text(facts.asked('model.name', 'a model'))}{f' {text(preset)}' if preset else ''}</b>"
    size = f" with <b>{count(parameters)}</b> parameters" if parameters else ""
    workers = f" on <b>{several(facts.workers, 'worker')}</b>" if facts.workers else ""
    layout = f" as <code>{text(facts.layout)}</code>" if facts.layout else ""
    steps = facts.steps
    far = f"{facts.record.step:,} of {steps:,} steps" if steps else several(facts.record.step, "step")
    began = time.strftime("%d %B %Y, %H:%M", time.localtime(facts.about["created"]))
    return f"{model}{size}{workers}{layout}. {far} in <b>{duration(facts.account.wall)}</b>, begun {began}."


def tiles(facts: Facts) -> str:
    """The figures one asks for first."""
    record = facts.record
    evals, last = record.evals, record.curve[-1].get("loss") if record.curve else None
    peaks = [step["peak_bytes"] for steps in record.steps.values() for step in steps if step.get("peak_bytes")]
    shown = [
        ("Validation loss", fixed(evals[-1]["loss"] if evals else None), _bits(facts)),
        (
            "Training loss",
            fixed(last),
            f"{'not finite ' if record.step and last is None else ''}at step {record.step:,}",
        ),
        _pace(facts),
        ("Wall time", duration(facts.account.wall), f"{share(facts.account.unexplained)} unexplained"),
        ("Restarts", str(record.restarts), f"{several(record.steps_lost, 'step')} computed twice"),
        ("Peak memory", memory(max(peaks)), "of the fullest rank") if peaks else ("Attempts", len(record.attempts), ""),
    ]
    boxes = (
        f"<div><dt>{text(name)}</dt><dd>{text(value)}</dd><small>{text(note)}</small></div>"
        for name, value, note in shown
    )
    return f'<dl class="tiles">{"".join(boxes)}</dl>'


def _bits(facts: Facts) -> str:
    """Bits per byte, beside those of the corpus' unigram entropy; nats where no bytes are known."""
    evals = facts.record.evals
    bits = evals[-1].get("bits_per_byte") if evals else None
    entropy, size = facts.told("data", "unigram_entropy"), facts.told("data", "bytes_per_token")
    words = ["nats" if size else ""]
    if bits is not None:
        words.append(f"{fixed(bits)} bits per byte")
    if entropy and size:
        words.append(f"unigram {fixed(entropy)} nats, {fixed(entropy / log(2) / size)} bits")
    return " · ".join(filter(None, words)) or "not evaluated"


def _pace(facts: Facts) -> tuple[str, str, str]:
    note = f"{facts.items} a second"
    return "Throughput", count(facts.pace), f"{note} · {facts.mfu}" if facts.mfu else note


def sample(facts: Facts) -> str:
    """What the model wrote."""
    event = facts.record.last("sample")
    if event is None:
        return ""
    return (
        '<section class="card"><h3>Generated sample</h3><small>the prompt stands out</small>'
        f'<pre class="sample"><b>{text(event.get("prompt", ""))}</b>{text(event.get("text", ""))}</pre></section>'
    )


def configuration(facts: Facts) -> str:
    """Every value with its origin, by section; what a person chose stands out."""
    sections: dict[str, list[Value]] = {}
    for value in facts.spec:
        sections.setdefault(value.section, []).append(value)
    tables = "".join(
        f"<table><caption>{text(name)}</caption><tbody>{''.join(map(_value, values))}</tbody></table>"
        for name, values in sections.items()
    )
    return (
        '<section class="card"><h3>Configuration</h3><small>each value with its origin; defaults are pale</small>'
        f'<div class="config">{tables}</div></section>'
    )


def _value(value: Value) -> str:
    chosen = ' class="chosen"' if value.chosen else ""
    shown = value.value if isinstance(value.value, str) and value.value else literal(value.value)
    return f"<tr{chosen}><th>{text(value.key)}</th><td>{text(shown)}</td><td>{text(value.origin)}</td></tr>"


def environment(facts: Facts) -> str:
    """Hosts, devices and versions."""
    about = facts.about.get("environment", {})
    starts = facts.record.of("start")
    rows = {
        "submitted on": about.get("host"),
        "workers on": ", ".join(sorted({str(event["host"]) for event in starts if event.get("host")})),
        "device": ", ".join(sorted({str(event["device"]) for event in starts if event.get("device")})),
        "processor": about.get("processor"),
        "processors": about.get("cpus"),
        "memory": memory(about.get("memory")),
        "system": about.get("system"),
        "Python": about.get("python"),
    } | about.get("packages", {})
    cells = "".join(f"<div><dt>{text(name)}</dt><dd>{text(value)}</dd></div>" for name, value in rows.items() if value)
    return f'<section class="card"><h3>Environment</h3><dl class="facts">{cells}</dl></section>'


def footer(facts: Facts) -> str:
    """Where everything lies and how to go on."""
    lost = sum(event.get("count", 0) for event in facts.record.of("lost")) + len(facts.record.of("unreadable"))
    said = f"{several(lost, 'event')} could not be recorded or read. " if lost else ""
    open_end = facts.state in ("stopped", "failed", "interrupted")
    resume = f" Go on with <code>shardwright resume {text(facts.run.name)}</code>." if open_end else ""
    return (
        f"<footer><p>{said}Recorded in <code>{text(facts.run.path)}</code>.{resume}</p>"
        f"<p>Written {time.strftime('%d %B %Y, %H:%M:%S')}; one file, nothing is fetched.</p></footer>"
    )
