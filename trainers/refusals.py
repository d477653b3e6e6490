"""What can an entry not be trained with, whatever its layout? One sentence each, known before anything starts."""

from ..models.entry import Entry


def fp16_refusal(entry: Entry, optimizer: str) -> str:
    """Why an entry cannot be trained in fp16 by an optimizer; "" where it can."""
    if entry.solver:
        return f"{entry.name} moves by a solver of its own ({entry.solver}), which has no update to leave out; use bf16"
    if optimizer == "lbfgs":
        return "lbfgs compares gradients of several evaluations, none of which may be left out; use bf16"
    return ""


def saving_refusal(entry: Entry, way: str) -> str:
    """Why an entry cannot keep less for backward by a way of train.recompute or train.activations; "" where it can."""
    return entry.refusals.get(way, "")


def compile_refusal(entry: Entry) -> str:
    """Why an entry cannot be compiled; "" where it can.

    An entry that names no units is one unit as a rule because its forward differentiates (a penalty of a gradient, an
    adjoint, an inner loop); of a network with a loss only the network is compiled.
    """
    if entry.units is not None or entry.loss is not None:
        return ""
    return (
        f"{entry.name} names no units to compile: its forward may differentiate, and torch cannot differentiate a "
        "compiled graph a second time; leave train.compile out"
    )
