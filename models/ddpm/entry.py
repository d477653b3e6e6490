"""What is DDPM, before it is built? Sizes, the order of its blocks, counts, legal degrees and cuts; no torch.

Ho, Jain and Abbeel, "Denoising Diffusion Probabilistic Models" (2020), with its U-Net. B samples, C channels, S pixels
of a side.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from ..entry import Boundary, Entry, Shape, TensorPlan, Unit
from ..layers import shapes as of
from ..layers.shapes import size

KERNEL = 3
TIME = 4  # times the width: numbers that tell the blocks the noise level


@dataclass(frozen=True)
class DDPMConfig:
    """Sizes of the U-Net and of the noise.

    Raises:
        ValueError: a size is not positive, or does not divide another as it must, or a rate is no probability.
    """

    side: int = size(32, "pixels of an image's side")
    channels: int = size(3, "colours")
    width: int = size(128, "channels of the first convolution")
    multipliers: tuple[int, ...] = size((1, 2, 2, 2), "channels of each level, in widths; a level halves the sides")
    blocks: int = size(2, "blocks of a level on the way down; on the way up there is one more")
    attention: tuple[int, ...] = size((16,), "sides at which pixels attend to each other")
    groups: int = size(32, "groups of channels that are normalised together")
    dropout: float = size(0.1, "between a block's convolutions")
    times: int = size(1000, "noise levels")
    first: float = size(1e-4, "variance that the first noise level adds (beta)")
    last: float = size(0.02, "variance that the last one adds; between them it grows linearly")

    def __post_init__(self) -> None:
        for name in ("side", "channels", "width", "blocks", "groups", "times"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} is not positive")
        if not self.multipliers or min(self.multipliers) < 1:
            raise ValueError(f"multipliers={self.multipliers}: there must be one for each level, at least 1 each")
        if self.side % 2 ** (len(self.multipliers) - 1):
            raise ValueError(f"side={self.side} cannot be halved {len(self.multipliers) - 1} times")
        if self.width % self.groups or self.width % 2:
            raise ValueError(f"width={self.width} must be even and a multiple of groups={self.groups}")
        if not 0.0 <= self.dropout < 1.0:
            raise ValueError(f"dropout={self.dropout} is not in [0, 1)")
        if not 0.0 < self.first <= self.last < 1.0:
            raise ValueError(f"first={self.first} and last={self.last} must rise within (0, 1)")


PRESETS = {
    "tiny": DDPMConfig(8, 1, 16, (1, 2), blocks=1, attention=(4,), groups=4, times=100, first=1e-3, last=0.2),
    "cifar10": DDPMConfig(),
}


@dataclass(frozen=True)
class Piece:
    """A unit of the U-Net between its first convolution and its last."""

    path: str
    kind: Literal["block", "shrink", "middle", "grow"]
    before: int  # channels that come in
    skip: int  # channels that a skip connection adds to them
    after: int  # channels that go out
    side: int  # pixels of a side that come in
    attends: bool = False

    @property
    def blocks(self) -> tuple[tuple[str, int, int, bool], ...]:
        """(path, channels in, channels out, attends) of each residual block."""
        if self.kind == "block":
            return ((self.path, self.before + self.skip, self.after, self.attends),)
        if self.kind == "middle":
            channels = (self.before, self.after)
            return (f"{self.path}.first", *channels, True), (f"{self.path}.second", *channels, False)
        return ()


def pieces(config: DDPMConfig) -> tuple[Piece, ...]:
    """The U-Net's units in order: down, through the middle, up."""
    levels = [config.width * multiplier for multiplier in config.multipliers]
    found: list[Piece] = []
    skips, channels, side = [config.width], config.width, config.side
    for level, after in enumerate(levels):
        for _ in range(config.blocks):
            attends = side in config.attention
            found.append(Piece(f"down.{len(found)}", "block", channels, 0, after, side, attends))
            channels = after
            skips.append(channels)
        if level < len(levels) - 1:
            found.append(Piece(f"down.{len(found)}", "shrink", channels, 0, channels, side))
            skips.append(channels)
            side //= 2
    found.append(Piece("middle", "middle", channels, 0, channels, side, True))
    way_down = len(found)
    for level, after in reversed(list(enumerate(levels))):
        for _ in range(config.blocks + 1):
            path, attends = f"up.{len(found) - way_down}", side in config.attention
            found.append(Piece(path, "block", channels, skips.pop(), after, side, attends))
            channels = after
        if level:
            found.append(Piece(f"up.{len(found) - way_down}", "grow", channels, 0, channels, side))
            side *= 2
    return tuple(found)


def shapes(config: DDPMConfig) -> dict[str, Shape]:
    """Every parameter of the Program."""
    time = TIME * config.width
    found = of.within(
        embed=of.within(
            image=convolution(config.channels, config.width),
            expand=of.linear(config.width, time),
            contract=of.linear(time, time),
        ),
        head=of.within(norm=of.norm(config.width), image=convolution(config.width, config.channels)),
    )
    for piece in pieces(config):
        for path, before, after, attends in piece.blocks:
            found |= of.within(**{path: block(before, after, time, attends)})
        if piece.kind in ("shrink", "grow"):
            found |= of.within(**{f"{piece.path}.image": convolution(piece.before, piece.after)})
    return found


def convolution(before: int, after: int, kernel: int = KERNEL) -> dict[str, Shape]:
    """Of a convolution."""
    return {"weight": (after, before, kernel, kernel), "bias": (after,)}


def block(before: int, after: int, time: int, attends: bool) -> dict[str, Shape]:
    """Of a residual block, and of attention behind it."""
    parts: dict[str, dict[str, Shape]] = {
        "first_norm": of.norm(before),
        "first": convolution(before, after),
        "time": of.linear(time, after),
        "second_norm": of.norm(after),
        "second": convolution(after, after),
    }
    if before != after:
        parts["shortcut"] = convolution(before, after, 1)
    if attends:
        parts["attention_norm"] = of.norm(after)
        parts["attention"] = of.within(
            **{name: of.linear(after, after) for name in ("query", "key", "value", "output")}
        )
    return of.within(**parts)


def parameters(config: DDPMConfig) -> int:
    """Elements of all weights."""
    return of.elements(shapes(config))


def units(config: DDPMConfig) -> tuple[Unit, ...]:
    """The first convolution and the time's embedding, the pieces, the last convolution."""
    return of.units(shapes(config), ["embed", *(piece.path for piece in pieces(config)), "head"])


def boundary(config: DDPMConfig, samples: int, tokens: int) -> dict[int, Boundary]:
    """What reaches each unit: the image [B, C, S, S], the time [B, 4 widths], and the skips that are still needed."""
    time = ((samples, TIME * config.width), "compute")
    return {
        index: (((samples, *image), "compute"), time, *(((samples, *skip), "compute") for skip in skips))
        for index, (image, skips) in enumerate(_between(config), start=1)
    }


def _between(config: DDPMConfig) -> Iterator[tuple[Shape, tuple[Shape, ...]]]:
    """Shape of one sample's image and of its skips, before each piece and before the head."""
    image: Shape = (config.width, config.side, config.side)
    skips = [image]
    for piece in pieces(config):
        yield image, tuple(skips)
        if piece.skip:
            skips.pop()
        side = {"shrink": piece.side // 2, "grow": piece.side * 2}.get(piece.kind, piece.side)
        image = (piece.after, side, side)
        if piece.path.startswith("down."):
            skips.append(image)
    yield image, tuple(skips)


def flops(config: DDPMConfig, tokens: int) -> float:
    """Forward FLOPs of one sample: 2 per weight of a convolution and pixel or of a matrix, and attention."""
    time, kernel = TIME * config.width, KERNEL**2
    total = 2 * config.side**2 * config.channels * config.width * kernel + config.width * time + time**2
    for piece in pieces(config):
        pixels = piece.side**2
        for _, before, after, attends in piece.blocks:
            shortcut = before * after if before != after else 0
            total += pixels * (kernel * (before + after) * after + shortcut) + time * after
            total += attends * (4 * pixels * after**2 + 2 * pixels**2 * after)
        if piece.kind in ("shrink", "grow"):
            scale = 4 if piece.kind == "grow" else 0.25
            total += int(pixels * scale) * kernel * piece.before * piece.after
    return 2.0 * total


def tensor(config: DDPMConfig) -> TensorPlan:
    """Between a block's convolutions the channels are split, whole groups each; in attention, those of its one head."""
    blocks = [block for piece in pieces(config) for block in piece.blocks]
    attention = [f"{path}.attention" for path, *_, attends in blocks if attends]
    return TensorPlan(
        columns=(
            *(f"{path}.{name}" for path, *_ in blocks for name in ("first", "time")),
            *(f"{path}.{name}" for path in attention for name in ("query", "key", "value")),
            "embed.expand",
        ),
        rows=(
            *(f"{path}.second" for path, *_ in blocks),
            *(f"{path}.output" for path in attention),
            "embed.contract",
        ),
        inputs=tuple(attention),
        own={f"{path}.second_norm.{name}": 0 for path, *_ in blocks for name in ("weight", "bias")},
    )


ENTRY = Entry(
    build="shardwright.models.ddpm.model:DDPM",
    name="ddpm",
    paper="Ho, Jain and Abbeel, Denoising Diffusion Probabilistic Models, 2020",
    config=DDPMConfig,
    presets=PRESETS,
    dataset="digits",
    parameters=parameters,
    shapes=shapes,
    flops=flops,
    units=units,
    boundary=boundary,
    tensor=tensor,
    divides={"tensor": "groups"},
)
