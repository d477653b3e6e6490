"""How is a backward done in two actions? The inputs' gradients first, the weights' later (Qi et al. 2024).

The graph of a forward has a way: the nodes between its outputs and its inputs. The first action runs the way alone and
keeps the gradient that enters each node from which something leads off the way, to weights. The second one runs those
nodes once more, for what leads off them alone; so nothing is computed twice. What cannot be put off like that, because
several nodes share it (a weight's cast that is used twice, a bias of a recurrent layer) or because a node is an
autograd.Function, which computes all its gradients at once, is computed with the first action and only handed to the
weights by the second. Weights are reached once in each second action, and never in the first, as hooks on them expect.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import BackwardCFunction
from torch.autograd.graph import GradientEdge, Node, get_gradient_edge

Gradients = tuple[Tensor | None, ...]


@dataclass
class _Part:
    """Weights, and all through which they are reached from the way; no two parts share anything."""

    doors: dict[Node, set[GradientEdge]] = field(default_factory=dict)  # node of the way -> what leads off it
    outputs: set[Node] = field(default_factory=set)  # nodes that are outputs of the forward themselves
    weights: set[Node] = field(default_factory=set)
    shared: bool = False  # some door cannot be put off


class SplitBackward:
    """The backward of one forward. Call `inputs` once, then `weights` once."""

    def __init__(self, outputs: Sequence[GradientEdge], inputs: Sequence[Tensor]) -> None:
        """Take a forward.

        Args:
            outputs: what has a gradient, each once.
            inputs: leaves; those that require no gradient get none.
        """
        self.outputs = outputs
        self.leaves = [get_gradient_edge(x) if x.requires_grad else None for x in inputs]
        self.given: Sequence[Tensor] = ()
        self.later: list[_Part] = []
        self.entered: dict[Node, Gradients] = {}  # gradients that entered the nodes with doors
        self.ready: list[tuple[GradientEdge, Tensor]] = []  # gradients of weights, known already

    def inputs(self, gradients: Sequence[Tensor]) -> Gradients:
        """The gradients of the inputs, None where an input needs none or has no influence.

        Args:
            gradients: of the outputs.
        """
        self.given = gradients
        parts = _parts({edge.node for edge in self.outputs}, {edge.node for edge in self.leaves if edge})
        self.later = [part for part in parts if not part.shared]
        at_once = [GradientEdge(weight, 0) for part in parts if part.shared for weight in part.weights]
        targets = [edge for edge in self.leaves if edge]
        found = self._gradients([*targets, *at_once])
        self.ready = [(edge, x) for edge, x in zip(at_once, found[len(targets) :], strict=True) if x is not None]
        rest = iter(found)
        return tuple(next(rest) if edge else None for edge in self.leaves)

    def weights(self) -> None:
        """Add the gradients of the weights to their `grad`."""
        for part in self.later:
            if len(part.doors) == 1 and not part.outputs:
                self._through(part)
            else:
                _accumulate([*self._of_outputs(part), *self._of_doors(part)])
        _accumulate(self.ready)
        self.later, self.ready, self.entered, self.given, self.outputs = [], [], {}, (), ()

    def _gradients(self, targets: list[GradientEdge]) -> Gradients:
        """Gradients of some edges; what enters the nodes with doors is kept."""
        if not targets:
            return ()
        handles = [node.register_prehook(_keep(self.entered, node)) for part in self.later for node in part.doors]
        try:
            return torch.autograd.grad(self.outputs, targets, self.given, retain_graph=True, allow_unused=True)
        finally:
            for handle in handles:
                handle.remove()

    def _through(self, part: _Part) -> None:
        """A part with one door, as most have: through the door to the weights at once."""
        (node,) = part.doors
        if entered := self._entered(node):
            edges, gradients = zip(*entered, strict=True)
            torch.autograd.backward(edges, gradients, inputs=[_weight(node) for node in part.weights])

    def _entered(self, node: Node) -> list[tuple[GradientEdge, Tensor]]:
        return [(GradientEdge(node, i), x) for i, x in enumerate(self.entered.pop(node, ())) if x is not None]

    def _of_outputs(self, part: _Part) -> Iterator[tuple[GradientEdge, Tensor]]:
        """Outputs off the way: what was given for them."""
        return (pair for pair in zip(self.outputs, self.given, strict=True) if pair[0].node in part.outputs)

    def _of_doors(self, part: _Part) -> Iterator[tuple[GradientEdge, Tensor]]:
        """What leads off the way, node by node, each with what entered it."""
        for node, edges in part.doors.items():
            if entered := self._entered(node):
                off = list(edges)
                found = torch.autograd.grad(*_columns(entered, off), allow_unused=True)
                yield from ((edge, x) for edge, x in zip(off, found, strict=True) if x is not None)


def _columns(entered: list[tuple[GradientEdge, Tensor]], off: list[GradientEdge]) -> tuple[Any, Any, Any]:
    """The arguments of autograd.grad: outputs, inputs, gradients of the outputs."""
    return [edge for edge, _ in entered], off, [x for _, x in entered]


def _weight(node: Node) -> Tensor:
    """The leaf whose gradient a node adds up."""
    found: Tensor = node.variable  # type: ignore[attr-defined]
    return found


def _keep(entered: dict[Node, Gradients], node: Node) -> Any:
    def hook(gradients: Gradients) -> None:
        entered[node] = gradients

    return hook


def _accumulate(pairs: Iterable[tuple[GradientEdge, Tensor]]) -> None:
    """Carry gradients on to the weights behind some edges."""
    pairs = list(pairs)
    if pairs:
        torch.autograd.backward([edge for edge, _ in pairs], [x for _, x in pairs])


def _parts(outputs: set[Node], inputs: set[Node]) -> list[_Part]:
    """The parts of a graph that lie off the way from its outputs to its inputs."""
    users = _users(outputs)
    way = _above(inputs, users)
    off = [node for node in users if node not in way]
    parts, seen = [], set[Node]()
    for node in off:
        if node not in seen:
            part, reached = _part(node, users, way)
            parts.append(part)
            seen |= reached
    return parts


def _users(outputs: set[Node]) -> dict[Node, set[Node | None]]:
    """For each node of a graph those that pass gradients to it; None stands for the gradient of an output."""
    users: dict[Node, set[Node | None]] = {node: {None} for node in outputs}
    left = list(outputs)
    while left:
        node = left.pop()
        for child, _ in node.next_functions:
            if child is not None:
                if child not in users:
                    users[child] = set()
                    left.append(child)
                users[child].add(node)
    return users


def _above(nodes: set[Node], users: dict[Node, set[Node | None]]) -> set[Node]:
    """Some nodes of a graph and all from which they are reached."""
    above = {node for node in nodes if node in users}
    left = list(above)
    while left:
        new = {user for user in users[left.pop()] if user is not None and user not in above}
        above |= new
        left.extend(new)
    return above


def _part(start: Node, users: dict[Node, set[Node | None]], way: set[Node]) -> tuple[_Part, set[Node]]:
    """The part with a node, and its nodes: all that are connected off the way, or through one node of it."""
    part, seen, left = _Part(), {start}, [start]
    while left:
        node = left.pop()
        doors = {user for user in users[node] if user in way or user is None}
        part.shared |= bool(doors) and len(users[node]) > 1
        near = {child for child, _ in node.next_functions if child is not None}
        near |= {user for user in users[node] if user is not None and user not in way}
        for door in doors:
            if door is None:
                part.outputs.add(node)
                continue
            edges = {
                GradientEdge(child, k) for child, k in door.next_functions if child is not None and child not in way
            }
            part.doors[door] = edges
            part.shared |= isinstance(door, BackwardCFunction)
            near |= {edge.node for edge in edges}
        if not node.next_functions:
            part.weights.add(node)
        left.extend(near - seen)
        seen |= near
    return part, seen
