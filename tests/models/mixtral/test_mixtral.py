"""Is it Mixtral, as the paper and `transformers` have it, and does every layout train it alike?"""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import entries
import pytest
import torch
from learning import learn
from shardwright.models.catalog import legal
from shardwright.models.entry import Translation, load_object
from shardwright.models.mixtral.entry import ENTRY, PRESETS, MixtralConfig, activations, boundary, flops, parameters
from shardwright.models.mixtral.model import Mixtral
from shardwright.models.mixtral.weights import read, read_config, write, write_config
from shardwright.models.program import build
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

CONFIG = MixtralConfig(
    vocab_size=61, context=24, width=32, layers=3, heads=4, kv_heads=2, hidden=24, experts=5, balance=0.3
)
UNIGRAM = 3.24  # nats a byte of the standard library's text, what a model without context reaches


def program(config: MixtralConfig = CONFIG) -> Mixtral:
    torch.manual_seed(0)
    made = build(ENTRY, config)
    assert isinstance(made, Mixtral)
    return made


@pytest.mark.parametrize("preset", PRESETS)
def test_the_record_is_that_of_the_built_model(preset: str) -> None:
    entries.check_record(ENTRY, PRESETS[preset])


def test_the_preset_has_the_papers_sizes() -> None:
    config = PRESETS["8x7b"]
    assert parameters(config) == pytest.approx(46.7e9, rel=0.001)
    used = parameters(config) - (config.experts - config.choices) * config.layers * 3 * config.width * config.hidden
    assert used == pytest.approx(12.9e9, rel=0.002), "of which a token uses so many"
    assert legal(ENTRY, config)["expert"] == (1, 2, 4, 8)


def test_flops_are_those_of_what_a_token_uses() -> None:
    """Counted on real tensors, where it is known how many rows an expert gets; but torch then counts no attention."""
    config = replace(CONFIG, width=64)
    with FlopCounterMode(display=False) as counter:
        program(config).eval()({"inputs": torch.zeros(1, 20, dtype=torch.int64)})
    attention = config.layers * 4 * 20**2 * config.width
    assert flops(config, 20) - attention == counter.get_total_flops()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_block_keeps_the_bytes_that_the_record_says(dtype: torch.dtype) -> None:
    config = PRESETS["tiny"]
    block = program(config).blocks["1"].to(dtype)
    turns = torch.ones(2, 128, config.head_width // 2, dtype=dtype)
    x = torch.randn(8, 128, config.width, dtype=dtype, requires_grad=True)
    with entries.kept(turns, *block.parameters()) as storages:
        block(x, *turns)
    assert activations(config, 8, 128, dtype.itemsize) == pytest.approx(sum(storages.values()), rel=0.02)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"choices": 6}, "choices=6 is more than experts=5"),
        ({"experts": 0}, "experts=0 is not positive"),
        ({"balance": -1.0}, "balance=-1.0 is negative"),
        ({"heads": 3}, "heads=3 does not divide width=32 into even parts"),
    ],
)
def test_impossible_sizes_are_refused(sizes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(CONFIG, **sizes)


def test_stages_hand_on_the_residual_stream_and_the_load() -> None:
    model, data = program(), entries.text(61, 2, 16)
    wanted = model(data)
    first, second = program(), program()
    for layer in ("1", "2"):
        del first.blocks[layer]
    del second.blocks["0"]
    first.head = second.embed = None
    passed = first(data)
    assert [(tuple(x.shape), kind) for x, (_, kind) in zip(passed, boundary(CONFIG, 2, 16), strict=True)] == list(
        boundary(CONFIG, 2, 16)
    )
    found = second(data, *passed)
    for name in ("loss", "cross_entropy", "imbalance"):
        torch.testing.assert_close(found[name], wanted[name])
    total = wanted["cross_entropy"][0] + CONFIG.balance * wanted["imbalance"][0]
    torch.testing.assert_close(wanted["loss"][0], total)


def theirs(config: MixtralConfig = CONFIG) -> nn.Module:
    """A MixtralForCausalLM of these sizes whose every weight is random."""
    transformers = pytest.importorskip("transformers", reason="the oracle is not installed")
    return entries.scattered(transformers.MixtralForCausalLM(transformers.MixtralConfig(**write_config(config))))


def shifted(inputs: Tensor) -> Tensor:
    """Each token's target is the next one; the last has none."""
    return torch.cat((inputs[:, 1:], torch.full_like(inputs[:, :1], -100)), 1)


def test_their_weights_give_our_model_their_logits_losses_and_gradients() -> None:
    """Loss and router loss of all layers' routing, and gradients through both."""
    other, ours = theirs(), program()
    ours.load_state_dict(read(other.state_dict(), CONFIG))
    inputs = entries.text(61, 3, 24)["inputs"]
    for training in (False, True):
        expected = other.train(training)(inputs, labels=inputs)
        assert float(expected.logits.detach().std()) > 0.1
        found = ours.train(training)({"inputs": inputs})["logits"]
        bound = 1e-5 * float(expected.logits.detach().abs().max())
        torch.testing.assert_close(found, expected.logits, rtol=0.0, atol=bound)
    terms = ours({"inputs": inputs, "targets": shifted(inputs)})
    means = {name: total / count for name, (total, count) in terms.items()}
    torch.testing.assert_close(means["imbalance"], expected.aux_loss, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(means["loss"], expected.loss, rtol=1e-5, atol=1e-5)
    assert float(expected.aux_loss.detach()) > 1.01 * CONFIG.choices, "routing is uneven"
    means["loss"].backward()
    expected.loss.backward()
    entries.check_gradients(entries.gradients(ours), read(entries.gradients(other), CONFIG))


def test_our_weights_give_their_model_our_logits(tmp_path: Path) -> None:
    """Through a file as they are published."""
    transformers = pytest.importorskip("transformers", reason="the oracle is not installed")
    from safetensors.torch import save_file

    ours = entries.scattered(program())
    save_file(write(ours.state_dict(), CONFIG), tmp_path / "model.safetensors", metadata={"format": "pt"})
    (tmp_path / "config.json").write_text(json.dumps(write_config(CONFIG)))
    other = transformers.MixtralForCausalLM.from_pretrained(tmp_path)
    inputs = entries.text(61, 3, 24)["inputs"]
    torch.testing.assert_close(ours({"inputs": inputs})["logits"], other(inputs).logits, rtol=1e-5, atol=1e-4)


def test_there_and_back_is_the_identity_and_foreign_tensors_are_named() -> None:
    state = entries.scattered(program()).state_dict()
    published = write(state, CONFIG)
    again = read(published, CONFIG)
    assert again.keys() == state.keys()
    assert all(torch.equal(again[name], x) for name, x in state.items())
    lost = "model.layers.1.block_sparse_moe.experts.3.w2.weight"
    with pytest.raises(ValueError, match=rf"lack {lost} \(1 in all\)"):
        read({name: x for name, x in published.items() if name != lost}, CONFIG)
    with pytest.raises(ValueError, match=r"are not Mixtral's: model\.extra"):
        read({**published, "model.extra": torch.ones(1)}, CONFIG)


@pytest.mark.parametrize("preset", PRESETS)
def test_sizes_there_and_back(preset: str) -> None:
    transformers = pytest.importorskip("transformers", reason="the oracle is not installed")
    described = transformers.MixtralConfig(**write_config(PRESETS[preset]))
    assert read_config(described.to_dict()) == PRESETS[preset]


def test_variants_are_refused() -> None:
    with pytest.raises(ValueError, match="sliding_window=4096; this Mixtral only knows None"):
        read_config(write_config(CONFIG) | {"sliding_window": 4096})
    translation = load_object(ENTRY.weights)
    assert isinstance(translation, Translation)
    assert translation.config(translation.describe(CONFIG)) == CONFIG


def test_it_learns_the_standard_library_and_stays_balanced(ranks: Callable[..., list[Any]]) -> None:
    """Its held-out loss is below what any model reaches that does not look at the context."""
    data = {"sequence_length": 64, "tokenizer": "bytes"}
    asked = {"name": "mixtral", "steps": 120, "batch": 8, "config": {"layers": 2}, "data": data}
    (found,) = ranks(learn, 1, deadline=120, **asked)
    assert found["held_out"]["cross_entropy"] < UNIGRAM - 0.1, found
    assert found["held_out"]["imbalance"] < 1.2 * PRESETS["tiny"].choices, found


@pytest.mark.parametrize(
    ("size", "strategies"), [(2, ["zero2", "expert2"]), (8, ["tensor2_sequence_pipeline2_expert2"])]
)
def test_a_layout_never_changes_the_result(ranks: Callable[..., list[Any]], size: int, strategies: list[str]) -> None:
    config = {"layers": 2, "width": 32, "hidden": 24, "vocab_size": 64}
    asked = {"name": "mixtral", "strategies": strategies, "config": config}
    entries.check_differences(ranks(entries.differences, size, deadline=120, **asked)[0])
