"""Is it Llama, as the papers and `transformers` have it, and does every layout train it alike?"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import entries
import pytest
import torch
from learning import learn
from shardwright.models.catalog import legal
from shardwright.models.entry import Translation, load_object
from shardwright.models.layers.rotary import rotate, rotation
from shardwright.models.llama.entry import ENTRY, PRESETS, LlamaConfig, activations, boundary, ends, flops, parameters
from shardwright.models.llama.model import Llama, turns_of
from shardwright.models.llama.weights import read, read_config, write, write_config
from shardwright.models.program import build
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

CONFIG = LlamaConfig(vocab_size=61, context=24, width=32, layers=3, heads=4, kv_heads=2, hidden=48)
TIED = replace(CONFIG, tied=True)
PAPER = {"60m": 58.07e6, "1b": 1339e6, "7b": 6738e6, "8b": 8030e6}
UNIGRAM = 3.24  # nats a byte of the standard library's text, what a model without context reaches


def program(config: LlamaConfig = CONFIG) -> Llama:
    torch.manual_seed(0)
    made = build(ENTRY, config)
    assert isinstance(made, Llama)
    return made


@pytest.mark.parametrize("config", [*PRESETS.values(), TIED], ids=[*PRESETS, "tied"])
def test_the_record_is_that_of_the_built_model(config: LlamaConfig) -> None:
    entries.check_record(ENTRY, config)


@pytest.mark.parametrize("preset", PAPER)
def test_presets_have_the_papers_sizes(preset: str) -> None:
    assert parameters(PRESETS[preset]) == pytest.approx(PAPER[preset], rel=0.001)


def test_degrees_divide_heads_of_keys_and_the_mlp() -> None:
    assert next(iter(PRESETS)) == "tiny"
    assert legal(ENTRY, PRESETS["8b"])["tensor"] == (1, 2, 4, 8)
    assert legal(ENTRY, PRESETS["1b"])["tensor"] == (1,), "5461 is odd"
    assert legal(ENTRY, PRESETS["tiny"])["pipeline"] == (1, 2, 3, 4, 5, 6)


@pytest.mark.parametrize("preset", ["tiny", "8b"])
def test_flops_are_those_that_torch_counts(preset: str) -> None:
    config, tokens = PRESETS[preset], 96
    batch = {"inputs": torch.zeros(1, tokens, dtype=torch.int64, device="meta")}
    with FlopCounterMode(display=False) as counter:
        entries.on_meta(ENTRY, config).eval()(batch)
    assert flops(config, tokens) == counter.get_total_flops()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_block_and_head_keep_the_bytes_that_the_record_says(dtype: torch.dtype) -> None:
    config, targets = PRESETS["tiny"], torch.zeros(8, 128, dtype=torch.int64)
    model = program(config).to(dtype)
    turns = tuple(turn.to(dtype) for turn in turns_of({"inputs": targets}, model.axes, config))
    x = torch.randn(8, 128, config.width, dtype=dtype, requires_grad=True)
    block, head = model.blocks["1"], model.head
    assert head is not None
    with entries.kept(*turns, *block.parameters()) as storages:
        block(x, *turns)
    assert activations(config, 8, 128, dtype.itemsize) == pytest.approx(sum(storages.values()), rel=0.01)
    with entries.kept(targets, *head.parameters()) as storages:
        head(x, targets)
    assert ends(config, 8, 128, dtype.itemsize)[0] == pytest.approx(sum(storages.values()), rel=0.01)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"heads": 3}, "heads=3 does not divide width=32 into even parts"),
        ({"heads": 32}, "heads=32 does not divide width=32 into even parts"),
        ({"kv_heads": 3}, "kv_heads=3 does not divide heads=4"),
        ({"layers": 0}, "layers=0 is not positive"),
        ({"base": 0.0}, "base=0.0 is not positive"),
    ],
)
def test_impossible_sizes_are_refused(sizes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(CONFIG, **sizes)


def test_rotations_keep_lengths_and_tell_only_distances() -> None:
    random = torch.Generator().manual_seed(0)
    query, key = (torch.randn(1, 1, 1, 8, generator=random, dtype=torch.float64) for _ in range(2))

    def score(asking: int, asked: int) -> Tensor:
        turns = [rotation(torch.tensor([place]), 8, 100.0) for place in (asking, asked)]
        return (rotate(query, *turns[0]) * rotate(key, *turns[1])).sum()

    turned = rotate(query, *rotation(torch.tensor([7]), 8, 100.0))
    torch.testing.assert_close(turned.norm(), query.norm(), rtol=1e-6, atol=0.0)
    torch.testing.assert_close(score(9, 4), score(25, 20), rtol=1e-5, atol=1e-6)
    assert abs(float(score(9, 4) - score(9, 5))) > 1e-2


def test_the_loss_is_that_of_the_logits_and_a_token_sees_only_those_before_it() -> None:
    model, data = program(), entries.text(61, 4, 20)
    data["targets"] = data["targets"].clone()
    data["targets"][0, :7] = -100
    total, count = model(data)["loss"]
    logits = model({"inputs": data["inputs"]})["logits"]
    wanted = F.cross_entropy(logits.flatten(0, 1), data["targets"].flatten(), reduction="sum")
    torch.testing.assert_close(total, wanted)
    assert float(count) == 4 * 20 - 7
    changed = data["inputs"].clone()
    changed[:, 12:] = (changed[:, 12:] + 1) % 61
    after = model({"inputs": changed})["logits"]
    torch.testing.assert_close(logits[:, :12], after[:, :12])
    assert (logits[:, 12:] - after[:, 12:]).abs().amax(-1).min() > 1e-4


def test_stages_hand_on_the_boundary() -> None:
    model, data = program(), entries.text(61, 2, 16)
    wanted, _ = model(data)["loss"]
    first, second = program(), program()
    for layer in ("1", "2"):
        del first.blocks[layer]
    del second.blocks["0"]
    first.head = second.embed = None
    passed = first(data)
    ((shape, dtype),) = boundary(CONFIG, 2, 16)
    assert passed[0].shape == shape and dtype == "compute"
    torch.testing.assert_close(second(data, *passed)["loss"][0], wanted)


def test_too_long_a_sample_is_refused() -> None:
    with pytest.raises(ValueError, match="25 tokens, but context=24"):
        program()({"inputs": torch.zeros(1, 25, dtype=torch.int64)})


def theirs(config: LlamaConfig) -> nn.Module:
    """A LlamaForCausalLM of these sizes whose every weight is random, norms too."""
    transformers = pytest.importorskip("transformers", reason="the oracle is not installed")
    return entries.scattered(transformers.LlamaForCausalLM(transformers.LlamaConfig(**write_config(config))))


@pytest.mark.parametrize("config", [CONFIG, TIED, replace(CONFIG, kv_heads=4)], ids=["grouped", "tied", "ungrouped"])
def test_their_weights_give_our_model_their_logits_loss_and_gradients(config: LlamaConfig) -> None:
    other, ours = theirs(config), program(config)
    ours.load_state_dict(read(other.state_dict(), config))
    inputs = entries.text(61, 3, 24)["inputs"]
    for training in (False, True):
        expected = other.train(training)(inputs).logits
        assert float(expected.detach().std()) > 0.1
        found = ours.train(training)({"inputs": inputs})["logits"]
        torch.testing.assert_close(found, expected, rtol=0.0, atol=1e-5 * float(expected.detach().abs().max()))
    total, count = ours({"inputs": inputs[:, :-1], "targets": inputs[:, 1:]})["loss"]
    loss = other(inputs, labels=inputs).loss
    torch.testing.assert_close(total / count, loss, rtol=1e-5, atol=1e-5)
    (total / count).backward()
    loss.backward()
    entries.check_gradients(entries.gradients(ours), read(entries.gradients(other), config))


@pytest.mark.parametrize("config", [CONFIG, TIED], ids=["untied", "tied"])
def test_our_weights_give_their_model_our_logits(config: LlamaConfig) -> None:
    ours, other = entries.scattered(program(config)), theirs(config)
    left = other.load_state_dict(write(ours.state_dict(), config), strict=False)
    assert left.missing_keys == (["lm_head.weight"] if config.tied else []) and not left.unexpected_keys
    inputs = entries.text(61, 3, 24)["inputs"]
    torch.testing.assert_close(ours({"inputs": inputs})["logits"], other(inputs).logits, rtol=1e-5, atol=1e-4)
    again = read(write(ours.state_dict(), config), config)
    assert again.keys() == ours.state_dict().keys()
    assert all(torch.equal(again[name], x) for name, x in ours.state_dict().items())


def test_files_of_old_versions_are_read_and_foreign_tensors_named() -> None:
    state = write(program().state_dict(), CONFIG)
    read({**state, "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(1)}, CONFIG)
    with pytest.raises(ValueError, match=r"lack model.norm.weight \(1 in all\)"):
        read({name: x for name, x in state.items() if name != "model.norm.weight"}, CONFIG)
    with pytest.raises(ValueError, match=r"are not Llama's: model\.extra"):
        read({**state, "model.extra": torch.ones(1)}, CONFIG)


@pytest.mark.parametrize("preset", PRESETS)
def test_sizes_there_and_back(preset: str) -> None:
    transformers = pytest.importorskip("transformers", reason="the oracle is not installed")
    described = transformers.LlamaConfig(**write_config(PRESETS[preset]))
    assert read_config(described.to_dict()) == PRESETS[preset]
    if preset == "7b":
        assert read_config(transformers.LlamaConfig().to_dict()) == PRESETS[preset]


def test_variants_are_refused_and_old_configs_read() -> None:
    described = write_config(CONFIG)
    with pytest.raises(ValueError, match="hidden_act='gelu'; this Llama only knows 'silu'"):
        read_config(described | {"hidden_act": "gelu"})
    with pytest.raises(ValueError, match="rope_type='llama3'; this model only knows rotations that are not scaled"):
        read_config(described | {"rope_parameters": {"rope_type": "llama3", "rope_theta": 5e5}})
    with pytest.raises(ValueError, match="head_dim=16; this model only knows 8"):
        read_config(described | {"head_dim": 16})
    old = {name: value for name, value in described.items() if name not in ("rope_parameters", "num_key_value_heads")}
    assert read_config(old | {"rope_scaling": None}) == replace(CONFIG, kv_heads=4)
    assert read_config({name: value for name, value in old.items() if name != "rope_theta"}).base == 10000.0


def test_the_entry_names_the_translation() -> None:
    translation = load_object(ENTRY.weights)
    assert isinstance(translation, Translation)
    assert translation.config(translation.describe(CONFIG)) == CONFIG


def test_it_learns_the_standard_library(ranks: Callable[..., list[Any]]) -> None:
    """Its held-out loss is below what any model reaches that does not look at the context."""
    data = {"sequence_length": 64, "tokenizer": "bytes"}
    asked = {"name": "llama", "steps": 120, "batch": 8, "config": {"layers": 2}, "data": data}
    (found,) = ranks(learn, 1, deadline=120, **asked)
    assert found["held_out"]["loss"] < UNIGRAM - 0.1, found


@pytest.mark.parametrize(
    ("size", "strategies"), [(2, ["zero3", "tensor2_sequence", "context2_ulysses"]), (8, ["zero3_tensor2_context2"])]
)
def test_a_layout_never_changes_the_result(ranks: Callable[..., list[Any]], size: int, strategies: list[str]) -> None:
    config = {"layers": 2, "width": 32, "hidden": 48, "vocab_size": 64}
    asked = {"name": "llama", "strategies": strategies, "config": config}
    entries.check_differences(ranks(entries.differences, size, deadline=120, **asked)[0])
