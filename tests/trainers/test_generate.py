"""Does generation follow the model's probabilities, its seed and its context?"""

from collections.abc import Mapping, Sequence

import pytest
import torch
from shardwright.models.draw import keys
from shardwright.models.gpt2.entry import GPT2Config
from shardwright.models.gpt2.model import GPT2
from shardwright.trainers.generate import generate, pick
from torch import Tensor, nn

CONFIG = GPT2Config(vocab_size=128, context=8, width=32, layers=2, heads=4, dropout=0.2)


def encode(text: str) -> list[int]:
    return list(text.encode())


def decode(ids: Sequence[int]) -> str:
    return bytes(ids).decode()


class Successor(nn.Module):
    """A model that knows the next letter for sure, and how much it was given to read."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.lengths: list[int] = []
        self.modes: set[bool] = set()

    def forward(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        self.lengths.append(batch["inputs"].shape[1])
        self.modes.add(self.training)
        return {"logits": 100.0 * nn.functional.one_hot(batch["inputs"] + 1, 128).float() + self.weight}


def speak(program: nn.Module, prompt: str = "ab", tokens: int = 12, **options: float) -> str:
    return generate(program, encode, decode, prompt, tokens, context=8, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_each_token_follows_the_last(temperature: float) -> None:
    program = Successor()
    assert speak(program, tokens=10, temperature=temperature) == "abcdefghijkl"
    assert program.lengths == [2, 3, 4, 5, 6, 7, 8, 8, 8, 8]


def test_the_program_is_evaluated_and_left_as_it_was() -> None:
    program = Successor()
    speak(program)
    assert (program.modes, program.training) == ({False}, True)
    speak(program.eval())
    assert not program.training


def test_the_seed_alone_decides() -> None:
    torch.manual_seed(0)
    model = GPT2(CONFIG)
    before = torch.get_rng_state()
    first = speak(model, seed=1)
    torch.manual_seed(99)
    assert speak(model, seed=1) == first != speak(model, seed=2)
    assert len(first) == 14 and first.startswith("ab")
    torch.manual_seed(0)
    GPT2(CONFIG)
    assert torch.equal(torch.get_rng_state(), before)


def test_tokens_are_drawn_as_often_as_they_are_probable() -> None:
    probable = torch.tensor([0.5, 0.0, 0.3, 0.2])
    for temperature in (1.0, 0.5):
        share = probable ** (1 / temperature) / (probable ** (1 / temperature)).sum()
        drawn = [pick(probable.log()[None], temperature, keys(0, 0, torch.tensor([n]))) for n in range(1000)]
        found = torch.bincount(torch.tensor(drawn), minlength=4) / 1000
        assert (found - share).abs().max() < 5 * 0.5 / 1000**0.5
        assert found[1] == 0
    assert pick(probable.log()[None], 0.0, keys(0, 0, torch.tensor([0]))) == 0


def test_wrong_requests_are_refused() -> None:
    with pytest.raises(ValueError, match="the prompt has no token"):
        speak(Successor(), prompt="")
    with pytest.raises(ValueError, match=r"temperature=-1.0 is negative"):
        speak(Successor(), temperature=-1.0)
