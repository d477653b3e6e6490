"""Why did a group of ranks fail? One block of text from what was seen of each rank: the cause, not its echoes.

A rank that died because a peer went away is a victim, never the cause; equal tracebacks are printed once.
"""

import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

ECHOES = (  # what gloo and NCCL say on the ranks that lost a peer
    "Connection closed by peer",
    "Connection reset by peer",
    "Broken pipe",
    "recvValue failed",
    "remote process exited",
    "Connection was likely closed",
)
MAX_LINES = 25
OWN_FRAME = 'jobs/worker.py", line'


@dataclass(frozen=True)
class Casualty:
    """What was seen of one rank that did not finish."""

    rank: int
    cause: str  # an exception's type, or "signal 9 (SIGKILL)", "exit status 1", "stopped", "hung", "late"
    host: str = ""
    phase: str = ""
    step: int = 0
    message: str = ""
    traceback: str = ""
    log: str = ""

    @classmethod
    def from_failure(cls, fields: Mapping[str, Any], log: str = "") -> Self:
        """From the fields of a "failure" event."""
        return cls(
            fields["rank"],
            fields["type"],
            fields["host"],
            fields["phase"],
            fields["step"],
            fields["message"],
            fields["traceback"],
            log,
        )

    @property
    def victim(self) -> bool:
        """Whether it only lost a peer."""
        return any(echo in self.message for echo in ECHOES)

    @property
    def sentence(self) -> str:
        """The cause in one line."""
        first = self.message.strip().split("\n", 1)[0]
        return f"{self.cause}: {first}" if first else self.cause


def first_cause(casualties: Sequence[Casualty]) -> Casualty:
    """The casualty that the others follow from; they are in the order in which they were seen."""
    return next((one for one in casualties if not one.victim), casualties[0])


def name_exit(code: int) -> str:
    """ "exit status 1", or "signal 9 (SIGKILL)" from a negative number."""
    if code >= 0:
        return f"exit status {code}"
    names = {known.value: known.name for known in signal.Signals}  # most real-time signals have none
    return f"signal {-code} ({names[-code]})" if -code in names else f"signal {-code}"


def name_ranks(ranks: Sequence[int]) -> str:
    """ "rank 3" or "ranks 0-2, 5"."""
    ordered = sorted(set(ranks))
    starts = [rank for rank in ordered if rank - 1 not in ordered]
    ends = [rank for rank in ordered if rank + 1 not in ordered]
    spans = [str(a) if a == b else f"{a}-{b}" for a, b in zip(starts, ends, strict=True)]
    return ("rank " if len(ordered) == 1 else "ranks ") + ", ".join(spans)


def failure_block(title: str, casualties: Sequence[Casualty], resume: str = "", max_lines: int = MAX_LINES) -> str:
    """The text that a person reads: cause, place, traceback, victims, log and the command that goes on.

    Args:
        title: what failed, such as "run gpt failed (attempt 3)".
        casualties: in the order in which they were seen, at least one.
        resume: command that continues the run; empty where there is none.
        max_lines: the block's length; tracebacks lose their outer frames first.
    """
    cause = first_cause(casualties)
    head = [title, *_describe(cause, [one.rank for one in casualties if _equal(one, cause)])]
    tail = _others([one for one in casualties if not _equal(one, cause)])
    tail += [f"log:    {cause.log}"] if cause.log else []
    tail += [f"resume: {resume}"] if resume else []
    return "\n".join([*head, *_trim(cause.traceback, max_lines - len(head) - len(tail)), *tail])


def _describe(cause: Casualty, ranks: Sequence[int]) -> list[str]:
    same = f" ({name_ranks([rank for rank in ranks if rank != cause.rank])}: the same)" if len(ranks) > 1 else ""
    host = f" on {cause.host}" if cause.host else ""
    phase = f", phase {cause.phase}" if cause.phase else ""
    return [f"cause:  rank {cause.rank}{host}{phase}, step {cause.step}{same}", f"        {_cut(cause.sentence)}"]


def _others(casualties: Sequence[Casualty]) -> list[str]:
    """A line for each kind of the remaining ranks; at most six."""
    kinds: dict[tuple[bool, str], list[int]] = {}
    for one in casualties:
        key = (one.victim, "lost a peer" if one.victim else _cut(one.sentence))
        kinds.setdefault(key, []).append(one.rank)
    lines = [
        f"{'victim: ' if victim else 'also:   '}{name_ranks(ranks)}: {what}" for (victim, what), ranks in kinds.items()
    ]
    return lines if len(lines) <= 6 else [*lines[:5], f"also:   {len(lines) - 5} other kinds of failure, see the logs"]


def _equal(one: Casualty, other: Casualty) -> bool:
    return (one.cause, one.message, one.traceback) == (other.cause, other.message, other.traceback)


def _trim(trace: str, room: int) -> list[str]:
    """The innermost frames that fit; the last line is kept in any case."""
    lines = [_cut(line) for line in _own_frames_dropped(trace.rstrip().split("\n")) if line.strip()]
    if len(lines) <= room:
        return lines
    return (
        [f"  ... {len(lines) - room + 1} lines left out", *lines[len(lines) - room + 1 :]] if room > 1 else lines[-1:]
    )


def _own_frames_dropped(lines: Sequence[str]) -> list[str]:
    """Without the frame of the worker's door, which every traceback starts with."""
    for index, line in enumerate(lines[:3]):
        if OWN_FRAME in line:
            following = next((i for i, text in enumerate(lines) if i > index and text.startswith("  File ")), None)
            return [*lines[:index], *lines[following:]] if following is not None else list(lines)
    return list(lines)


def _cut(line: str, width: int = 160) -> str:
    return line if len(line) <= width else line[: width - 3] + "..."
