"""What does a slot that lives in an environment carry on? Names and shapes of its streams; no torch."""

from ..entry import Stream

STATE, AGE, SCORE = "slot.state", "slot.age", "slot.score"


def slot_streams(numbers: int) -> dict[str, Stream]:
    """Of an environment with so many numbers of a state; the age is that of the episode, counted from one."""
    return {STATE: Stream((numbers,)), AGE: Stream((), "int64"), SCORE: Stream(())}
