"""What does a residual network compute? A stem, basic blocks that add to what they were given, a linear head.

He, Zhang, Ren and Sun, "Deep Residual Learning for Image Recognition" (2015). B samples, C channels, S pixels along
each side. Projection shortcuts where a block changes the shape (option B); batch norm over all data ranks.
"""

from collections.abc import Mapping

from torch import Tensor, nn
from torch.nn import functional as F

from ..layers.batch_norm import BatchNorm
from ..layers.classification import Terms, classification
from .entry import FeatureSizes, ResNetConfig


class ResNet(nn.Module):
    """The Program: a batch to its classification loss.

    A pipeline stage sets `features.stem` or `head` to None and drops blocks; what is left keeps its name.
    """

    def __init__(self, config: ResNetConfig) -> None:
        super().__init__()
        self.features = Features(config)
        self.head: nn.Linear | None = nn.Linear(config.features, config.classes)

    def forward(self, batch: Mapping[str, Tensor], *state: Tensor) -> Terms | dict[str, Tensor] | tuple[Tensor, ...]:
        """The objective; the first of several answers that fits.

        Args:
            batch: "image" float32 [B, C, S, S]; "label" int64 [B].
            state: the feature map [B, C, S, S], in a stage without the stem.

        Returns:
            In a stage without `head`, the feature map in a tuple. Without labels, {"logits": [B, classes]}. Otherwise
            the terms of `classification`.
        """
        x = self.features(state[0] if state else batch["image"])
        if self.head is None:
            return (x,)
        logits = self.head(x.mean((2, 3)))
        return classification(logits, batch["label"]) if "label" in batch else {"logits": logits}


class Features(nn.Module):
    """Images [B, C, S, S] to the last block's feature map [B, features, S', S']."""

    def __init__(self, config: FeatureSizes) -> None:
        super().__init__()
        self.stem: Stem | None = Stem(config)
        self.blocks = nn.ModuleDict({str(index): Block(*block) for index, block in enumerate(config.layout)})
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        if self.stem is not None:
            x = self.stem(x)
        for block in self.blocks.values():
            x = block(x)
        return x


class Stem(nn.Module):
    """An image to the first feature map."""

    def __init__(self, config: FeatureSizes) -> None:
        super().__init__()
        self.pools = config.stem == "paper"
        kernel, stride = (7, 2) if self.pools else (3, 1)
        self.convolution = nn.Conv2d(config.channels, config.width, kernel, stride, kernel // 2, bias=False)
        self.norm = BatchNorm(config.width)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.convolution(x)))
        return F.max_pool2d(x, 3, stride=2, padding=1) if self.pools else x


class Block(nn.Module):
    """Two convolutions and a shortcut around them."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.first_norm = BatchNorm(outputs)
        self.second = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.second_norm = BatchNorm(outputs)
        self.projects = stride > 1 or inputs != outputs
        if self.projects:
            self.shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.shortcut_norm = BatchNorm(outputs)

    def forward(self, x: Tensor) -> Tensor:
        y = self.second_norm(self.second(F.relu(self.first_norm(self.first(x)))))
        return F.relu(y + (self.shortcut_norm(self.shortcut(x)) if self.projects else x))


def initialise(features: Features) -> None:
    """Weights of convolutions from N(0, 2 / (outputs x kernel)) (He et al. 2015, "Delving Deep into Rectifiers")."""
    for module in features.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
