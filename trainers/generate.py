"""What does the model say? Tokens drawn one by one from its logits, each from a key of (seed, position)."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from ..models.draw import draw, keys


@torch.no_grad()
def generate(
    program: nn.Module,
    encode: Callable[[str], Sequence[int]],
    decode: Callable[[Sequence[int]], str],
    prompt: str,
    tokens: int,
    *,
    context: int,
    temperature: float = 1.0,
    seed: int = 0,
) -> str:
    """The prompt and `tokens` tokens after it; at most `context` tokens are read for each. Temperature 0 is greedy.

    The program's forward answers a batch without targets with {"logits": [B, T, V]}. Every rank of a sharded model
    calls this alike and gets the same text.

    Raises:
        ValueError: the prompt has no token, or the temperature is negative.
    """
    ids = list(encode(prompt))
    if not ids:
        raise ValueError("the prompt has no token; generation needs at least one to begin with")
    if temperature < 0.0:
        raise ValueError(f"temperature={temperature} is negative")
    device = next(program.parameters()).device
    training = program.training
    program.eval()
    try:
        for position in range(len(ids), len(ids) + tokens):
            batch = _batch(ids[-context:], seed, position, device)
            ids.append(pick(program(batch)["logits"][:, -1], temperature, batch["key"]))
    finally:
        program.train(training)
    return decode(ids)


def _batch(ids: Sequence[int], seed: int, position: int, device: torch.device) -> dict[str, Tensor]:
    sample = torch.zeros(1, dtype=torch.int64, device=device)
    return {"inputs": torch.tensor([ids], device=device), "sample": sample, "key": keys(seed, position, sample)}


def pick(logits: Tensor, temperature: float, key: Tensor) -> int:
    """A token id from logits [1, V]: the first whose cumulative probability exceeds a uniform number."""
    if temperature == 0.0:
        return int(logits.argmax())
    cumulative = (logits[0].double() / temperature).softmax(-1).cumsum(-1)
    threshold = draw(key, "generate", ()).double() * cumulative[-1]
    return int(torch.searchsorted(cumulative, threshold, right=True))
