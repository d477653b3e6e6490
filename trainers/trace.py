"""What does a stretch of steps do, in detail? A Chrome trace, and the course of allocated memory beside it."""

import json
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile


def traced_steps(text: str) -> range:
    """The steps, counted from 1, that "first:last" (or "step") names; none for "".

    Raises:
        ValueError: the text is not of that form.
    """
    if not text:
        return range(0)
    first, _, last = text.partition(":")
    return range(int(first), int(last or first) + 1)


class Trace:
    """Profiles some steps of one rank and writes `rank-000.trace.json` and `rank-000.memory.json`."""

    def __init__(self, steps: range, folder: Path, rank: int) -> None:
        self.steps, self.path = steps, folder / f"rank-{rank:03}"
        self.profile: profile | None = None

    def before(self, step: int) -> None:
        """Start with the first of the steps that is left; step counts from 1."""
        if self.profile is None and step in self.steps:
            kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if torch.cuda.is_available() else [])]
            self.profile = profile(activities=kinds, profile_memory=True, record_shapes=True)
            self.profile.start()

    def after(self, step: int) -> None:
        """Write when the last of the steps is done."""
        if self.profile is not None and step == self.steps[-1]:
            self.close()

    def close(self) -> None:
        """Write what was profiled; nothing where no step was."""
        if self.profile is None:
            return
        self.profile.stop()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        trace = self.path.with_suffix(".trace.json")
        aside = trace.with_suffix(".part")
        self.profile.export_chrome_trace(str(aside))
        self.path.with_suffix(".memory.json").write_text(json.dumps(memory_course(json.loads(aside.read_text()))))
        aside.rename(trace)
        self.profile = None


def memory_course(trace: dict[str, Any]) -> dict[str, Any]:
    """Allocations and frees of a Chrome trace: microseconds, bytes (negative: freed) and the total after each."""
    found = [event for event in trace["traceEvents"] if event["name"] == "[memory]"]
    return {
        "unit": "bytes",
        "events": [
            {
                "us": event["ts"],
                "device": "cpu" if event["args"]["Device Type"] == 0 else f"cuda:{event['args']['Device Id']}",
                "bytes": event["args"]["Bytes"],
                "total": event["args"]["Total Allocated"],
            }
            for event in sorted(found, key=lambda event: event["ts"])
        ],
    }
