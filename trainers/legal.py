"""Can an entry be laid out so? By its refusals, the sizes that degrees divide, and the engine's limits; no torch."""

from typing import Any

from ..models import catalog
from ..models.entry import Entry
from .engines import limits
from .layout import Layout


def refusal(entry: Entry, config: Any, layout: Layout) -> str:
    """Why an entry cannot be laid out so, in one sentence; "" where it can."""
    degrees = layout.degrees | {"pipeline": layout.pipeline, "expert": layout.expert}
    if layout.attention == "ulysses":
        degrees["ulysses"] = layout.context * layout.tensor if layout.context > 1 else 1
    reasons = [catalog.refusal(entry, config, axis, degree) for axis, degree in degrees.items()]
    if layout.chunks > 1 and entry.units is not None and layout.pipeline * layout.chunks > len(entry.units(config)):
        units, parts = len(entry.units(config)), layout.pipeline * layout.chunks
        reasons.append(
            f"schedule={layout.schedule} cuts the model into pipeline x {layout.chunks} = {parts} parts, "
            f"but {entry.name} has {units} units"
        )
    if layout.sequence and not (entry.tensor and entry.tensor(config).between):
        reasons.append(
            f"sequence: {entry.name} names no parameters between its split layers (TensorPlan.between), "
            "so every rank of the tensor axis holds all tokens there"
        )
    reasons.append(limits.refusal(entry, layout))
    return next((reason for reason in reasons if reason), "")
