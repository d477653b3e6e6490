"""What does a graph attention network compute? Each node takes from its neighbours, by weights that both decide.

Velickovic et al., "Graph Attention Networks" (2018). B graphs of N nodes, F numbers of a node, H heads (of this rank,
under tensor parallel), D numbers of a head. Edges are a dense matrix; every node is its own neighbour too.
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..axes import ALONE, Axes, local
from ..draw import dropout
from ..layers.collectives import join
from .entry import GATConfig

Terms = dict[str, tuple[Tensor, Tensor]]
SLOPE = 0.2  # of the leaky ReLU of scores, below zero
IGNORED = -100


class GAT(nn.Module):
    """The Program: graphs to the losses of the nodes that are asked for.

    A pipeline stage drops layers; what is left keeps its name.
    """

    def __init__(self, config: GATConfig) -> None:
        super().__init__()
        self.last = str(config.layers - 1)
        self.layers = nn.ModuleDict({str(layer): layer_of(config, layer) for layer in range(config.layers)})

    def forward(self, batch: Mapping[str, Tensor], *state: Tensor) -> Terms | dict[str, Tensor] | tuple[Tensor, ...]:
        """The objective; the first of several answers that fits.

        Args:
            batch: "nodes" [B, N, F]; "adjacency" bool [B, N, N], True at (i, j) where i takes from j; "labels" int64
                [B, N], -100 where nothing is asked; "key" int32 [B, 2], needed in training with dropout.
            state: the nodes [B, N, H D of all ranks] after the layer before the first one here.

        Returns:
            In a stage without the last layer, its nodes in a tuple. Without labels, {"logits": [B, N, classes]}.
            Otherwise "loss": (sum over asked nodes in nats, asked nodes) and "accuracy": (of them right, asked nodes).
        """
        x = state[0] if state else batch["nodes"]
        edges = batch["adjacency"] | torch.eye(x.shape[1], dtype=torch.bool, device=x.device)
        for layer in self.layers.values():
            x = layer(x, edges, batch.get("key"))
        if self.last not in self.layers:
            return (x,)
        return terms(x, batch["labels"]) if "labels" in batch else {"logits": x}


def layer_of(config: GATConfig, layer: int) -> "Attention":
    """A layer by its place."""
    name, inputs = f"layers.{layer}", config.hidden if layer else config.features
    if layer < config.layers - 1:
        return Attention(name, inputs, config.heads, config.width, config.dropout, last=False)
    return Attention(name, inputs, config.output_heads, config.classes, config.dropout, last=True)


class Attention(nn.Module):
    """A layer: nodes [B, N, F] to [B, N, heads x D], or in the last one to the average [B, N, D] of its heads.

    Under tensor parallel a rank computes the heads [index * H, (index + 1) * H) of its place on that axis; the last
    layer is not split.
    """

    axes: Axes = ALONE

    def __init__(self, name: str, inputs: int, heads: int, width: int, dropout: float, last: bool) -> None:
        super().__init__()
        self.name, self.heads, self.width, self.dropout, self.last = name, heads, width, dropout, last
        self.projection = nn.Linear(inputs, heads * width, bias=False)
        self.source = nn.Parameter(torch.empty(heads, width))  # what a node says of itself to those who take from it
        self.target = nn.Parameter(torch.empty(heads, width))  # what a node asks for
        self.bias = nn.Parameter(torch.zeros(width if last else heads * width))
        for weight in (self.projection.weight, self.source, self.target):
            nn.init.xavier_uniform_(weight)  # as in the paper's code

    def forward(self, x: Tensor, edges: Tensor, key: Tensor | None) -> Tensor:
        if self.training:
            x = dropout(x, self.dropout, key, f"{self.name}.input")
        values: Tensor = self.projection(x).unflatten(-1, (-1, self.width)).transpose(1, 2)  # [B, H, N, D]
        weights = self.weights(values, edges)
        if self.training:
            weights = self.drop(weights, key)
        mixed = weights @ values
        if self.last:
            return mixed.mean(1) + self.bias
        return F.elu(join(mixed.transpose(1, 2).flatten(2) + local(self.bias), self.axes.tensor, -1))

    def weights(self, values: Tensor, edges: Tensor) -> Tensor:
        """How much each node takes from each other, [B, H, N, N]; a row sums to one."""
        source, target = ((values * local(x)[:, None]).sum(-1) for x in (self.source, self.target))  # [B, H, N]
        scores = F.leaky_relu(target[..., :, None] + source[..., None, :], SLOPE)
        return scores.masked_fill(~edges[:, None], -math.inf).softmax(-1)

    def drop(self, weights: Tensor, key: Tensor | None) -> Tensor:
        """Dropout of weights [B, H, N, N]; a head draws the same numbers on whichever rank it sits."""
        heads, *square = weights.shape[1:]
        first = 0 if self.last else self.axes.tensor.index * heads
        return dropout(weights, self.dropout, key, f"{self.name}.weights", (first, 0, 0), (self.heads, *square))


def terms(logits: Tensor, labels: Tensor) -> Terms:
    """The loss and the share of right answers, over the nodes whose label is asked for."""
    asked = labels != IGNORED
    count = asked.sum()
    loss = F.cross_entropy(logits.flatten(0, 1).float(), labels.flatten(), ignore_index=IGNORED, reduction="sum")
    right = ((logits.argmax(-1) == labels) & asked).sum()
    return {"loss": (loss, count), "accuracy": (right.float(), count)}
