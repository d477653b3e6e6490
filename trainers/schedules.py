"""What is the learning rate of a step? A pure function of the step, so that a resumed run needs no schedule state."""

from math import cos, pi

from .options import ScheduleOptions


def factor(options: ScheduleOptions, step: int, steps: int) -> float:
    """The factor of the peak learning rate at a step.

    Args:
        step: updates made before this one, 0 to steps - 1.
        steps: updates of the whole run.

    Sources: cosine, Loshchilov and Hutter 2017 (SGDR); warm-up, stable, decay, Hu et al. 2024 (MiniCPM).
    """
    if step < options.warmup:
        return (step + 1) / options.warmup
    if options.name == "constant":
        return 1.0
    start = options.warmup
    if options.name == "wsd":
        start = max(start, steps - round(options.cooldown * steps))
    if step < start:
        return 1.0
    progress = min(1.0, (step - start + 1) / max(1, steps - start))
    decay = (1 + cos(pi * progress)) / 2 if options.name == "cosine" else 1 - progress
    return options.final + (1 - options.final) * decay
