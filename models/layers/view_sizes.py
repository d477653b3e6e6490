"""How much may a view of an image differ from it? The sizes of models/layers/views.py, torch-free."""

from dataclasses import dataclass

from .shapes import size


@dataclass(frozen=True)
class ViewSizes:
    """Strengths of the random changes.

    Raises:
        ValueError: one is outside its range.
    """

    crop: float = size(0.08, "least share of an image's area that a view shows")
    turn: float = size(0.0, "largest angle that a view is turned by, degrees")
    flip: float = size(0.5, "probability that a view is mirrored")
    jitter: float = size(1.0, "strength of changes of brightness, contrast and saturation")
    grey: float = size(0.2, "probability that a view of colours loses them")
    noise: float = size(0.0, "standard deviation of what is added to each pixel")

    def __post_init__(self) -> None:
        for name in ("crop", "flip", "grey"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"{name}={getattr(self, name)} is not in [0, 1]")
        if not self.crop:
            raise ValueError("crop=0.0 would show nothing of an image; crop=1.0 shows all of it")
        for name in ("turn", "jitter", "noise"):
            if getattr(self, name) < 0.0:
                raise ValueError(f"{name}={getattr(self, name)} is negative")
