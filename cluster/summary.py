"""What came of a run, in a dozen lines? One set of facts, as JSON and as text."""

from math import log
from typing import Any

from ..jobs.history import last_terms, own_seconds, warm
from ..jobs.report.facts import Facts, gather
from ..jobs.report.numbers import NONE, count, duration, fixed, plain, several, share
from ..jobs.run_folder import RunFolder
from ..trainers.checkpoint.manifest import newest

OPEN = ("stopped", "failed", "interrupted")  # states that a resume goes on from
SAMPLE = 400  # characters of the generated text that are shown


def summarize(run: RunFolder) -> dict[str, Any]:
    """JSON values; None where a fact is not known.

    Raises:
        RunError: the run has a newer format.
    """
    facts = gather(run)
    record, checkpoint = facts.record, newest(run.checkpoints)
    return {
        "run": run.name,
        "path": str(run.path),
        "state": facts.state,
        "step": record.step,
        "steps": facts.steps,
        **losses(facts),
        "tokens_per_second": facts.pace,
        "items": facts.items,
        "step_seconds": step_seconds(facts),
        "mfu": facts.mfu.value if facts.mfu else None,
        "mfu_formula": str(facts.mfu) if facts.mfu else None,
        "wall_seconds": facts.account.wall,
        "time": facts.account.seconds,
        "unexplained": facts.account.unexplained,
        "attempts": len(record.attempts),
        "restarts": record.restarts,
        "steps_lost": record.steps_lost,
        "checkpoint": str(checkpoint) if checkpoint else None,
        "report": str(run.report) if run.report.exists() else None,
        "sample": {name: facts.told("sample", name) for name in ("prompt", "text")} if record.last("sample") else None,
        "resume": f"shardwright resume {run.path}" if facts.state in OPEN else None,
    }


def losses(facts: Facts) -> dict[str, Any]:
    """The last losses in nats and bits per byte, and the unigram entropy beside them; None: not known or not finite."""
    curve, evals = facts.record.curve, facts.record.evals
    entropy, size = facts.told("data", "unigram_entropy"), facts.told("data", "bytes_per_token")
    return {
        "loss": curve[-1].get("loss") if curve else None,
        "terms": last_terms(curve),
        "validation_loss": evals[-1]["loss"] if evals else None,
        "validation_step": evals[-1]["step"] if evals else None,
        "bits_per_byte": evals[-1].get("bits_per_byte") if evals else None,
        "unigram_entropy": entropy,
        "unigram_bits_per_byte": entropy / log(2) / size if entropy and size else None,
    }


def step_seconds(facts: Facts) -> float | None:
    """Mean seconds of a warm step."""
    timed = [own_seconds(step) for step in warm(facts.record.curve)]
    return sum(timed) / len(timed) if timed else None


def summary_text(found: dict[str, Any]) -> str:
    """The summary as aligned lines, without those of which nothing is known."""
    rows = {
        "run": f"{found['run']}: {found['state']} at step {found['step']:,}{_of(found['steps'])}",
        "loss": _training(found),
        "terms": ", ".join(f"{name} {plain(value, 4)}" for name, value in found["terms"].items()),
        "validation": _validation(found),
        "throughput": _throughput(found),
        "MFU": (found["mfu_formula"] or "").removeprefix("MFU "),
        "time": f"{duration(found['wall_seconds'])}, {share(found['unexplained'])} unexplained",
        "failures": _failures(found),
        "checkpoint": found["checkpoint"],
        "report": found["report"],
        "go on with": found["resume"],
        "sample": _sample(found["sample"]),
    }
    return "\n".join(f"{name:<12}{_indented(value)}" for name, value in rows.items() if value)


def _of(steps: int | None) -> str:
    return f" of {steps:,}" if steps else ""


def _training(found: dict[str, Any]) -> str:
    if found["loss"] is None:
        return "not finite" if found["step"] else ""
    return f"{fixed(found['loss'], 4)} in training"


def _validation(found: dict[str, Any]) -> str:
    if found["validation_loss"] is None:
        return ""
    nats = (
        f"{fixed(found['validation_loss'], 4)} nats" if found["unigram_entropy"] else fixed(found["validation_loss"], 4)
    )
    bits = f", {fixed(found['bits_per_byte'], 4)} bits per byte" if found["bits_per_byte"] is not None else ""
    entropy = found["unigram_entropy"]
    return nats + bits + (f" (unigram entropy of the corpus: {fixed(entropy, 4)} nats)" if entropy else "")


def _throughput(found: dict[str, Any]) -> str:
    if found["tokens_per_second"] is None:
        return ""
    return f"{count(found['tokens_per_second'])} {found['items']} a second, {duration(found['step_seconds'])} a step"


def _failures(found: dict[str, Any]) -> str:
    if not found["restarts"] and not found["steps_lost"]:
        return ""
    return f"{several(found['restarts'], 'restart')}, {several(found['steps_lost'], 'step')} computed twice"


def _sample(sample: dict[str, str] | None) -> str:
    if sample is None:
        return ""
    written = "".join(c if c.isprintable() or c in "\n\t" else "·" for c in f"{sample['prompt']}{sample['text']}")
    return written if len(written) <= SAMPLE else f"{written[:SAMPLE]}…"


def _indented(value: Any) -> str:
    return ("\n" + " " * 12).join(str(NONE if value is None else value).splitlines())
