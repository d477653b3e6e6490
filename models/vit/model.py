"""What does a Vision Transformer compute? Read from the top: the Program, then what it is made of.

Dosovitskiy et al. 2020. B samples, N tokens (patches and the class token), C width. Pre-norm blocks, learned positions,
GELU by the error function; the class token's vector is what the image is judged by.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..axes import ALONE, Axes
from ..draw import dropout
from ..layers.encoder import Attention
from .entry import VitConfig

Terms = dict[str, tuple[Tensor, Tensor]]


class Vit(nn.Module):
    """The Program: a batch of images to the sum of their losses.

    A pipeline stage sets `embed` or `head` to None and drops blocks; what is left keeps its name.
    """

    def __init__(self, config: VitConfig) -> None:
        super().__init__()
        self.embed: Embed | None = Embed(config)
        self.blocks = nn.ModuleDict({str(layer): Block(config, f"blocks.{layer}") for layer in range(config.layers)})
        self.head: Head | None = Head(config)
        initialise(self)

    def forward(self, batch: Mapping[str, Tensor], *state: Tensor) -> Terms | dict[str, Tensor] | tuple[Tensor, ...]:
        """The objective; the first of several answers that fits.

        Args:
            batch: "image" float32 [B, channels, image, image]; "label" int64 [B]; "key" int32 [B, 2], needed in
                training with dropout.
            state: the residual stream [B, N, C], in a stage without `embed`.

        Returns:
            In a stage without `head`, the residual stream in a tuple. Without labels, {"logits": [B, classes]}.
            Otherwise "loss": (sum in nats, B) and "accuracy": (images judged rightly, B).

        Raises:
            ValueError: the images are not of the config's size.
        """
        key = batch.get("key")
        x = self.embed(batch["image"], key) if self.embed is not None else state[0]
        for block in self.blocks.values():
            x = block(x, key)
        if self.head is None:
            return (x,)
        logits = self.head(x)
        return terms(logits, batch["label"]) if "label" in batch else {"logits": logits}


def terms(logits: Tensor, labels: Tensor) -> Terms:
    """Loss and accuracy of logits [B, classes], labels int64 [B]."""
    count = torch.tensor(float(labels.shape[0]), device=labels.device)
    right = (logits.argmax(-1) == labels).sum().float()
    return {"loss": (F.cross_entropy(logits.float(), labels, reduction="sum"), count), "accuracy": (right, count)}


class Embed(nn.Module):
    """Images to the residual stream [B, N, C]: the class token, then the patches row by row."""

    def __init__(self, config: VitConfig) -> None:
        super().__init__()
        self.size, self.dropout = (config.channels, config.image, config.image), config.dropout
        self.patches = nn.Conv2d(config.channels, config.width, config.patch, stride=config.patch)
        self.token = nn.Parameter(torch.zeros(1, 1, config.width))
        self.positions = nn.Parameter(torch.empty(1, config.tokens, config.width))

    def forward(self, image: Tensor, key: Tensor | None) -> Tensor:
        if image.shape[1:] != self.size:
            raise ValueError(f"an image is {tuple(image.shape[1:])}, but the config says {self.size}")
        patches = self.patches(image).flatten(2).transpose(1, 2)
        x = torch.cat((self.token.expand(len(image), -1, -1), patches), 1) + self.positions
        return dropout(x, self.dropout, key, "embed") if self.training else x


class Block(nn.Module):
    """Attention and MLP, each of them added to the residual stream [B, N, C].

    Dropout stands behind every dense layer but query, key and value (the paper's appendix B.1).
    """

    def __init__(self, config: VitConfig, name: str) -> None:
        super().__init__()
        self.name, self.dropout = name, config.dropout
        self.attention_norm = nn.LayerNorm(config.width, eps=config.epsilon)
        self.attention = Attention(config.width, config.heads, 0.0, f"{name}.attention")
        self.mlp_norm = nn.LayerNorm(config.width, eps=config.epsilon)
        self.mlp = MLP(config, f"{name}.mlp")

    def forward(self, x: Tensor, key: Tensor | None) -> Tensor:
        x = x + self.drop(self.attention(self.attention_norm(x), key), key, "attention")
        return x + self.drop(self.mlp(self.mlp_norm(x), key), key, "mlp")

    def drop(self, branch: Tensor, key: Tensor | None, which: str) -> Tensor:
        return dropout(branch, self.dropout, key, f"{self.name}.{which}.output") if self.training else branch


class MLP(nn.Module):
    """Two layers with GELU and dropout between them; under tensor parallel a rank holds a part of the hidden layer."""

    axes: Axes = ALONE

    def __init__(self, config: VitConfig, name: str) -> None:
        super().__init__()
        self.name, self.dropout, self.hidden = name, config.dropout, config.hidden
        self.expand, self.contract = nn.Linear(config.width, config.hidden), nn.Linear(config.hidden, config.width)

    def forward(self, x: Tensor, key: Tensor | None) -> Tensor:
        hidden = F.gelu(self.expand(x))
        if self.training:
            tokens, local = hidden.shape[1:]
            start, extent = (0, self.axes.tensor.index * local), (tokens, self.hidden)
            hidden = dropout(hidden, self.dropout, key, f"{self.name}.hidden", start, extent)
        result: Tensor = self.contract(hidden)
        return result


class Head(nn.Module):
    """The residual stream [B, N, C] to logits [B, classes]."""

    def __init__(self, config: VitConfig) -> None:
        super().__init__()
        self.norm, self.classes = (
            nn.LayerNorm(config.width, eps=config.epsilon),
            nn.Linear(config.width, config.classes),
        )

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.classes(self.norm(x[:, 0]))
        return result


def initialise(program: Vit) -> None:
    """As the paper's own code does: Xavier for matrices, LeCun for patches, N(0, 0.02^2) for positions, zeros for the
    class token and what judges it.

    Draws from torch's default generator, which the caller seeds.
    """
    assert program.embed is not None and program.head is not None
    for module in program.blocks.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)
    patches = program.embed.patches
    assert patches.bias is not None
    nn.init.trunc_normal_(patches.weight, std=patches.weight[0].numel() ** -0.5)
    nn.init.zeros_(patches.bias)
    nn.init.normal_(program.embed.positions, std=0.02)
    nn.init.zeros_(program.head.classes.weight)
    nn.init.zeros_(program.head.classes.bias)
