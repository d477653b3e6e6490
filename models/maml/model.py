"""What does MAML compute? How well a classifier does after adapting to a task, differentiated through the adapting.

Finn, Abbeel and Levine, "Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks" (2017). B tasks, S support
images to learn from, Q query images to be asked about, N either, C channels or units (of this rank, within a pair of
layers under tensor parallel), X pixels of a side, K classes. All tasks of a batch adapt at once: weights have a first
dim B and differ between tasks after the first step.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..axes import ALONE, Axes, local
from ..layers.collectives import enter, leave
from .entry import KERNEL, MAMLConfig

Terms = dict[str, tuple[Tensor, Tensor]]
Weights = Mapping[str, Tensor]
EPS = 1e-5


class MAML(nn.Module):
    """The Program: tasks to the losses of their queries after adapting to their support images.

    Support images, and queries, are normalised by their own statistics, as in the paper's code. Layers before a
    normalisation have no bias, which it would take away again.
    """

    axes: Axes = ALONE

    def __init__(self, config: MAMLConfig) -> None:
        super().__init__()
        self.config = config
        kernel = (KERNEL, KERNEL) if config.convolutions else ()
        self.layers = nn.ModuleList(Layer(after, before, *kernel) for before, after in config.layers)
        self.head = nn.Linear(config.features, config.ways)

    def forward(self, batch: Mapping[str, Tensor]) -> Terms:
        """The objective.

        Args:
            batch: "support_images" [B, S, 1, X, X], "support_labels" int64 [B, S], "query_images" [B, Q, 1, X, X],
                "query_labels" int64 [B, Q].

        Returns:
            "loss": (sum over queries in nats, B Q); "accuracy": (queries that are answered right, B Q).
        """
        images, labels = batch["query_images"], batch["query_labels"]
        weights = self.adapted(batch["support_images"], batch["support_labels"])
        logits = self.logits(weights, images)
        count = logits.new_tensor(float(labels.numel()))
        right = (logits.argmax(-1) == labels).float().sum()
        return {"loss": (cross_entropy(logits, labels, "sum"), count), "accuracy": (right, count)}

    @torch.enable_grad()
    def adapted(self, images: Tensor, labels: Tensor) -> Weights:
        """The weights of each task, [B, ...], after descending the mean loss of its support images.

        They depend on the initial weights: to second order through the gradients too, to first order as if those were
        constants.
        """
        tasks = images.shape[0]
        weights = {name: local(p).expand(tasks, *local(p).shape) for name, p in self.named_parameters()}
        further = self.training and not self.config.first_order
        for _ in range(self.config.steps):
            loss = cross_entropy(self.logits(weights, images), labels, "sum") / labels.shape[1]  # of each task a mean
            slopes = torch.autograd.grad(loss, list(weights.values()), create_graph=further)
            weights = {
                name: weight - self.config.rate * slope
                for (name, weight), slope in zip(weights.items(), slopes, strict=True)
            }
        return weights

    def logits(self, weights: Weights, images: Tensor) -> Tensor:
        """Of images [B, N, 1, X, X] under each task's own weights, [B, N, K]."""
        axis, count = self.axes.tensor, len(self.layers)
        x = images if self.config.convolutions else images.flatten(2)
        for layer in range(count):
            weight, scale, shift = (weights[f"layers.{layer}.{name}"] for name in ("weight", "scale", "shift"))
            if layer % 2:
                x = leave(apply(x, weight), axis)
            else:
                x = apply(enter(x, axis), weight)
            x = F.relu(normalised(x) * per_channel(scale, x) + per_channel(shift, x))
            x = halved(x) if self.config.convolutions else x
        found = x.flatten(2) @ weights["head.weight"].transpose(1, 2)
        return (leave(found, axis) if count % 2 else found) + weights["head.bias"][:, None]


class Layer(nn.Module):
    """The weights of a hidden layer and of the normalisation behind it."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(shape))
        self.scale = nn.Parameter(torch.ones(shape[0]))
        self.shift = nn.Parameter(torch.zeros(shape[0]))
        nn.init.kaiming_normal_(self.weight)


def apply(x: Tensor, weight: Tensor) -> Tensor:
    """x [B, N, C] or [B, N, C, X, X] under the weight [B, D, C] or [B, D, C, 3, 3] of each task, C to D."""
    if weight.ndim == 3:
        return x @ weight.transpose(1, 2)
    tasks, outputs = weight.shape[:2]  # one group of channels a task
    found = F.conv2d(x.transpose(0, 1).flatten(1, 2), weight.flatten(0, 1), padding=KERNEL // 2, groups=tasks)
    each: Tensor = found.unflatten(1, (tasks, outputs))
    return each.transpose(0, 1)


def normalised(x: Tensor) -> Tensor:
    """x [B, N, C, ...] in fp32, each channel of each task with mean 0 and variance 1."""
    x, dims = x.float(), [1, *range(3, x.ndim)]
    variance, mean = torch.var_mean(x, dims, correction=0, keepdim=True)
    return (x - mean) * (variance + EPS).rsqrt()


def per_channel(values: Tensor, x: Tensor) -> Tensor:
    """[B, C] as it broadcasts over x [B, N, C, ...]."""
    return values.view(values.shape[0], 1, -1, *[1] * (x.ndim - 3))


def halved(x: Tensor) -> Tensor:
    """[B, N, C, X, X] to [B, N, C, X / 2, X / 2], the largest of four pixels each."""
    pooled: Tensor = F.max_pool2d(x.flatten(0, 1), 2).unflatten(0, x.shape[:2])
    return pooled


def cross_entropy(logits: Tensor, labels: Tensor, reduction: str) -> Tensor:
    """Of logits [B, N, K] and labels int64 [B, N], in nats."""
    return F.cross_entropy(logits.flatten(0, 1).float(), labels.flatten(), reduction=reduction)
