"""What did a run learn? The whole Program of a checkpoint in this process, whatever layout saved it."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..models.entry import Entry, ties
from ..models.program import build
from .checkpoint.store import load
from .state import persistent_buffers


def whole_program(entry: Entry, config: Any, checkpoint: Path, device: str = "cpu") -> nn.Module:
    """The Program with a checkpoint's weights, in fp32.

    Raises:
        CheckpointError: the checkpoint is damaged, or of another model.
    """
    with torch.device(device):
        program = build(entry, config)
    aliases = {alias for _, alias in ties(entry, config)}
    weights = {name: p.detach() for name, p in program.named_parameters(remove_duplicate=False) if name not in aliases}
    tensors = weights | persistent_buffers(program)
    load(checkpoint, {f"model.{name}": tensor for name, tensor in tensors.items()}, prefix="model.")
    return program
