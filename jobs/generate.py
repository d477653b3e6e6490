"""How does a trained run continue a text? With the weights of a checkpoint, in one process."""

from pathlib import Path

from ..trainers.data.dataset import Data
from ..trainers.generate import generate
from ..trainers.whole import whole_program
from .check import Checked


def continue_text(
    checked: Checked, data: Data, checkpoint: Path, prompt: str, tokens: int, temperature: float = 0.8, seed: int = 0
) -> str:
    """The prompt and what the weights of a checkpoint add to it. Torch must have no process group.

    Raises:
        ValueError: the model does not say what comes next, the data has no tokenizer, or the prompt has no token.
    """
    if not checked.entry.continues:
        raise ValueError(f"{checked.entry.name} is no model of the next token, so it cannot continue a text")
    program = whole_program(checked.entry, checked.config, checkpoint)
    context = data.tokens_per_sample or 1
    return generate(
        program,
        data.encode,
        lambda ids: data.decode(ids) or "",
        prompt,
        tokens,
        context=context,
        temperature=temperature,
        seed=seed,
    )
