"""What does DDPM compute? Which noise was mixed into an image, by a U-Net that is told how much of it there is.

Ho, Jain and Abbeel, "Denoising Diffusion Probabilistic Models" (2020). B samples, C channels (between the convolutions
of a block those of this rank, under tensor parallel), S pixels of a side, E = 4 widths: the numbers of the time.
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..axes import ALONE, Axes, local
from ..draw import dropout, integers, normal
from ..layers.collectives import total
from .entry import KERNEL, TIME, DDPMConfig, Piece, pieces
from .noise import kept, noised

Terms = dict[str, tuple[Tensor, Tensor]]
EPS = 1e-6  # of the norms
LONGEST = 10_000.0  # wave length of the time's slowest sine, over 2 pi


class DDPM(nn.Module):
    """The Program: images to the squared errors of the noise that is found in them.

    A pipeline stage sets `embed`, `middle` or `head` to None and drops pieces; what is left keeps its name.
    """

    shares: Tensor

    def __init__(self, config: DDPMConfig) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("shares", kept(config), persistent=False)
        made = {piece.path: build_piece(config, piece) for piece in pieces(config)}
        self.embed: Embed | None = Embed(config)
        self.down = nn.ModuleDict(_below(made, "down."))
        self.middle: nn.Module | None = made["middle"]
        self.up = nn.ModuleDict(_below(made, "up."))
        self.head: Head | None = Head(config)

    def forward(self, batch: Mapping[str, Tensor], *state: Tensor) -> Terms | tuple[Tensor, ...]:
        """The objective, at a noise level that is drawn for each sample.

        Args:
            batch: "image" [B, C, S, S] in [0, 1]; "key" int32 [B, 2].
            state: in a stage without `embed`, the image, the time [B, E], and the skips from the first on.

        Returns:
            In a stage without `head`, these three behind its last piece. Otherwise "loss": (sum of squared errors of
            the noise, numbers in the images); 1.0 a number is the error of saying zero.
        """
        image, key = batch["image"], batch["key"]
        noise = normal(key, "noise", image.shape[1:])
        if self.embed is not None:
            level = integers(key, "level", (), 0, self.config.times)
            state = (noised(2.0 * image - 1.0, noise, self.shares[level]), level)
        state = self.through(state, key)
        if self.head is None:
            return state
        error = (state[0].float() - noise).square()
        return {"loss": (error.sum(), error.new_tensor(float(error.numel())))}

    def predict(self, noisy: Tensor, level: Tensor) -> Tensor:
        """The noise in images [B, C, S, S] at noise levels int64 [B]; of the whole U-Net."""
        return self.through((noisy, level), None)[0]

    def through(self, state: tuple[Tensor, ...], key: Tensor | None) -> tuple[Tensor, ...]:
        """The pieces that are here: what the first one takes, to what the last one gives."""
        if self.embed is not None:
            x, time = self.embed(*state)
            skips = [x]
        else:
            x, time, *skips = state
        for piece in self.down.values():
            x = piece(x, time, key)
            skips.append(x)
        if self.middle is not None:
            x = self.middle(x, time, key)
        for piece in self.up.values():
            x = piece(x, time, key) if isinstance(piece, Grow) else piece(torch.cat((x, skips.pop()), 1), time, key)
        return (x, time, *skips) if self.head is None else (self.head(x),)


def _below(made: Mapping[str, nn.Module], prefix: str) -> dict[str, nn.Module]:
    return {path.removeprefix(prefix): piece for path, piece in made.items() if path.startswith(prefix)}


def build_piece(config: DDPMConfig, piece: Piece) -> nn.Module:
    """The module of a piece: (x, time, key) to x."""
    if piece.kind == "shrink":
        return Shrink(piece.before)
    if piece.kind == "grow":
        return Grow(piece.before)
    blocks = [Block(config, *block) for block in piece.blocks]
    return blocks[0] if piece.kind == "block" else Middle(*blocks)


class Embed(nn.Module):
    """Noisy images [B, C, S, S] and noise levels [B] to the first features [B, width, S, S] and the time [B, E]."""

    def __init__(self, config: DDPMConfig) -> None:
        super().__init__()
        self.width = config.width
        self.image = nn.Conv2d(config.channels, config.width, KERNEL, padding=KERNEL // 2)
        self.expand = nn.Linear(config.width, TIME * config.width)
        self.contract = nn.Linear(TIME * config.width, TIME * config.width)

    def forward(self, image: Tensor, level: Tensor) -> tuple[Tensor, Tensor]:
        return self.image(image), self.contract(F.silu(self.expand(waves(level, self.width))))


def waves(level: Tensor, width: int) -> Tensor:
    """Sines and cosines of a noise level [B], [B, width], of wave lengths that grow geometrically."""
    half = width // 2
    steps = torch.arange(half, dtype=torch.float32, device=level.device) / max(1, half - 1)
    angle = level.float()[:, None] * torch.exp(-math.log(LONGEST) * steps)
    return torch.cat((angle.sin(), angle.cos()), 1)


class Block(nn.Module):
    """Two convolutions beside a shortcut, the time added between them; behind them attention, where it is wanted."""

    axes: Axes = ALONE

    def __init__(self, config: DDPMConfig, name: str, before: int, after: int, attends: bool) -> None:
        super().__init__()
        self.name, self.after, self.dropout = name, after, config.dropout
        self.first_norm = GroupNorm(config.groups, before, EPS)
        self.first = nn.Conv2d(before, after, KERNEL, padding=KERNEL // 2)
        self.time = nn.Linear(TIME * config.width, after)
        self.second_norm = GroupNorm(config.groups, after, EPS)
        self.second = nn.Conv2d(after, after, KERNEL, padding=KERNEL // 2)
        self.shortcut = nn.Conv2d(before, after, 1) if before != after else nn.Identity()
        self.attention_norm = GroupNorm(config.groups, after, EPS) if attends else None
        self.attention = Attention(after) if attends else None

    def forward(self, x: Tensor, time: Tensor, key: Tensor | None) -> Tensor:
        """[B, C, S, S] to [B, after, S, S]."""
        y = self.first(F.silu(self.first_norm(x))) + self.time(F.silu(time))[..., None, None]
        y = self.drop(F.silu(self.second_norm(y)), key)
        x = self.shortcut(x) + self.second(y)
        if self.attention is None or self.attention_norm is None:
            return x
        pixels = self.attention_norm(x).flatten(2).transpose(1, 2)
        seen: Tensor = self.attention(pixels).transpose(1, 2).unflatten(2, x.shape[2:])
        return x + seen

    def drop(self, x: Tensor, key: Tensor | None) -> Tensor:
        """Dropout of this rank's channels."""
        if not self.training:
            return x
        own, *square = x.shape[1:]
        return dropout(x, self.dropout, key, self.name, (self.axes.tensor.index * own, 0, 0), (self.after, *square))


class GroupNorm(nn.GroupNorm):
    """nn.GroupNorm whose channels may be split, whole groups to a rank (Wu and He 2018)."""

    def forward(self, x: Tensor) -> Tensor:
        groups = x.shape[1] * self.num_groups // self.num_channels
        return F.group_norm(x, groups, local(self.weight), local(self.bias), self.eps)


class Attention(nn.Module):
    """One head: each of the pixels [B, S S, C] takes from all others.

    Under tensor parallel a rank holds some of the head's channels, so scores are sums over the ranks.
    """

    axes: Axes = ALONE

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.scale = channels**-0.5
        self.query, self.key, self.value, self.output = (nn.Linear(channels, channels) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        scores = total(self.query(x) @ self.key(x).transpose(1, 2), self.axes.tensor)
        result: Tensor = self.output((scores * self.scale).softmax(-1) @ self.value(x))
        return result


class Middle(nn.Module):
    """Two blocks, attention between them, where the image is smallest."""

    def __init__(self, first: Block, second: Block) -> None:
        super().__init__()
        self.first, self.second = first, second

    def forward(self, x: Tensor, time: Tensor, key: Tensor | None) -> Tensor:
        result: Tensor = self.second(self.first(x, time, key), time, key)
        return result


class Shrink(nn.Module):
    """[B, C, S, S] to [B, C, S / 2, S / 2] by a convolution of stride 2 that looks one pixel beyond right and below."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.image = nn.Conv2d(channels, channels, KERNEL, stride=2)

    def forward(self, x: Tensor, time: Tensor, key: Tensor | None) -> Tensor:
        result: Tensor = self.image(F.pad(x, (0, 1, 0, 1)))
        return result


class Grow(nn.Module):
    """[B, C, S, S] to [B, C, 2 S, 2 S]: each pixel four times, then a convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.image = nn.Conv2d(channels, channels, KERNEL, padding=KERNEL // 2)

    def forward(self, x: Tensor, time: Tensor, key: Tensor | None) -> Tensor:
        result: Tensor = self.image(F.interpolate(x, scale_factor=2.0, mode="nearest"))
        return result


class Head(nn.Module):
    """Features [B, width, S, S] to the noise [B, C, S, S]."""

    def __init__(self, config: DDPMConfig) -> None:
        super().__init__()
        self.norm = GroupNorm(config.groups, config.width, EPS)
        self.image = nn.Conv2d(config.width, config.channels, KERNEL, padding=KERNEL // 2)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.image(F.silu(self.norm(x)))
        return result
