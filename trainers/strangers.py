"""Does an objective depend on parameters that its Program does not hold? They would be neither reduced nor trained.

A network that forward calls beside its Program (from a closure, or from a list that is no nn.ModuleList) trains nowhere
and nothing fails; so whoever proves an entry looks at what the objective's graph ends in.
"""

from collections.abc import Iterator

from torch import Tensor, nn


def check_held(objective: Tensor, program: nn.Module) -> None:
    """Refuse an objective that reaches other parameters than the Program's.

    Raises:
        ValueError: it does; the sentence says what shapes they have.
    """
    held = {id(parameter) for parameter in program.parameters()}
    beside = [tuple(p.shape) for p in reached(objective) if id(p) not in held]
    if beside:
        shapes = ", ".join(map(str, sorted(set(beside))[:4]))
        raise ValueError(
            f"the objective depends on {len(beside)} parameters that the Program does not hold (of shapes {shapes}): "
            "make their network a submodule of what `build` returns, or their values no parameters"
        )


def reached(value: Tensor) -> Iterator[nn.Parameter]:
    """The parameters that a value's graph ends in, each once."""
    waiting, seen = [value.grad_fn], set()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        waiting += [below for below, _ in node.next_functions]
        leaf = getattr(node, "variable", None)
        if isinstance(leaf, nn.Parameter):
            yield leaf
