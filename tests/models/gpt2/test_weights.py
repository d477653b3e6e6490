"""Is it the same model as `transformers` GPT-2, in both directions?"""

from dataclasses import replace

import pytest
import torch
from shardwright.models.entry import Translation, load_object
from shardwright.models.gpt2.entry import ENTRY, PRESETS, GPT2Config
from shardwright.models.gpt2.model import GPT2
from shardwright.models.gpt2.weights import read, read_config, write, write_config
from torch import Tensor, nn

transformers = pytest.importorskip("transformers", reason="the oracle is not installed")

CONFIG = GPT2Config(vocab_size=61, context=24, width=32, layers=3, heads=4, dropout=0.0)
INPUTS = torch.randint(61, (3, 24), generator=torch.Generator().manual_seed(0))


def theirs() -> nn.Module:
    """A GPT2LMHeadModel whose every weight is random, biases and norms too."""
    return scattered(transformers.GPT2LMHeadModel(transformers.GPT2Config(**write_config(CONFIG))))


def scattered(model: nn.Module) -> nn.Module:
    random = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(0.3 * torch.randn(weight.shape, generator=random))
    return model


def compare(ours: nn.Module, other: nn.Module) -> None:
    for training in (False, True):
        logits = ours.train(training)({"inputs": INPUTS})["logits"]
        expected = other.train(training)(INPUTS).logits
        assert float(expected.detach().std()) > 0.1
        torch.testing.assert_close(logits, expected, rtol=0.0, atol=1e-5)


def test_their_weights_give_our_model_their_logits() -> None:
    other, ours = theirs(), GPT2(CONFIG)
    ours.load_state_dict(read(other.state_dict(), CONFIG))
    compare(ours, other)


def test_our_weights_give_their_model_our_logits() -> None:
    ours, other = scattered(GPT2(CONFIG)), transformers.GPT2LMHeadModel(transformers.GPT2Config(**write_config(CONFIG)))
    left = other.load_state_dict(write(ours.state_dict(), CONFIG), strict=False)
    assert left.missing_keys == ["lm_head.weight"] and not left.unexpected_keys, "the tied weight comes with wte"
    compare(ours, other)


def test_gradients_agree() -> None:
    other, ours = theirs(), GPT2(CONFIG)
    ours.load_state_dict(read(other.state_dict(), CONFIG))
    total, count = ours({"inputs": INPUTS[:, :-1], "targets": INPUTS[:, 1:]})["loss"]
    (total / count).backward()
    loss = other(INPUTS, labels=INPUTS).loss
    loss.backward()
    torch.testing.assert_close(total / count, loss, rtol=1e-5, atol=1e-5)
    expected = read({name: weight.grad for name, weight in other.named_parameters()}, CONFIG)
    largest = max(float(gradient.abs().max()) for gradient in expected.values())
    for name, weight in ours.named_parameters():
        assert weight.grad is not None
        assert float((weight.grad - expected[name]).abs().max()) <= 1e-5 * largest, name


def test_there_and_back_is_the_identity() -> None:
    state = scattered(GPT2(CONFIG)).state_dict()
    again = read(write(state, CONFIG), CONFIG)
    assert set(again) == set(state)
    assert all(torch.equal(again[name], state[name]) for name in state)


def test_files_of_the_bare_model_are_read() -> None:
    """The published gpt2 has no prefix, and causal masks among its tensors."""
    state = theirs().state_dict()
    bare = {name.removeprefix("transformer."): tensor for name, tensor in state.items() if name != "lm_head.weight"}
    masks: dict[str, Tensor] = {f"h.{layer}.attn.bias": torch.ones(1) for layer in range(3)}
    found, expected = read(bare | masks, CONFIG), read(state, CONFIG)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_missing_and_foreign_tensors_are_named() -> None:
    state = theirs().state_dict()
    with pytest.raises(ValueError, match=r"lack wpe.weight \(1 in all\)"):
        read({name: tensor for name, tensor in state.items() if "wpe" not in name}, CONFIG)
    with pytest.raises(ValueError, match="are not GPT-2's: rotary"):
        read(state | {"rotary": torch.ones(1)}, CONFIG)


@pytest.mark.parametrize("preset", PRESETS)
def test_sizes_there_and_back(preset: str) -> None:
    config = PRESETS[preset]
    described = transformers.GPT2Config(**write_config(config))
    assert read_config(described.to_dict()) == config
    if preset == "small":
        assert read_config(transformers.GPT2Config().to_dict()) == config


def test_variants_are_refused() -> None:
    described = write_config(replace(CONFIG, dropout=0.1))
    with pytest.raises(ValueError, match="activation_function='relu'"):
        read_config(described | {"activation_function": "relu"})
    with pytest.raises(ValueError, match=r"attn_pdrop=0.0; this GPT-2 only knows 0.1"):
        read_config(described | {"attn_pdrop": 0.0})
    with pytest.raises(ValueError, match="lacks n_head"):
        read_config({name: value for name, value in described.items() if name != "n_head"})


def test_the_entry_names_the_translation() -> None:
    translation = load_object(ENTRY.weights)
    assert isinstance(translation, Translation)
    assert translation.config(translation.describe(CONFIG)) == CONFIG
