"""Is it Longformer, as the paper and `transformers` have it, at the cost it promises, and alike under every layout?"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import entries
import pytest
import torch
from learning import learn
from shardwright.models.entry import load_object
from shardwright.models.longformer.band import banded
from shardwright.models.longformer.entry import ENTRY, PRESETS, LongformerConfig, boundary, flops, parameters
from shardwright.models.longformer.model import Longformer, framed
from shardwright.models.longformer.weights import TRANSLATION, read_config, write_config
from shardwright.models.program import build
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

CONFIG = LongformerConfig(
    vocab_size=61,
    context=80,
    width=32,
    layers=2,
    heads=4,
    hidden=48,
    window=8,
    leading=2,
    dropout=0.0,
    start=0,
    end=2,
    mask=60,
)
UNIGRAM = 3.24  # nats a byte of the standard library's text, what a model without context reaches


def program(dropout: float = 0.0, config: LongformerConfig = CONFIG) -> Longformer:
    torch.manual_seed(0)
    made = build(ENTRY, replace(config, dropout=dropout))
    assert isinstance(made, Longformer)
    return made


def text(samples: int = 4, tokens: int = 40, step: int = 0) -> dict[str, Tensor]:
    return entries.text(60, samples, tokens, step)


@pytest.mark.parametrize("preset", PRESETS)
def test_the_record_is_that_of_the_built_model(preset: str) -> None:
    entries.check_record(ENTRY, PRESETS[preset])


def test_the_base_preset_has_the_published_size() -> None:
    """148.7 million weights in the published file, which has one segment and 4098 rows of positions."""
    assert parameters(PRESETS["base"]) == 148_711_257


@pytest.mark.parametrize("tokens", [40, 77])
@pytest.mark.parametrize("preset", ["", "base"])
def test_flops_are_those_that_torch_counts(preset: str, tokens: int) -> None:
    """Without targets the logits of all tokens are made; in training those of 15 % of them."""
    config = PRESETS[preset] if preset else CONFIG
    with FlopCounterMode(display=False) as counter:
        entries.on_meta(ENTRY, config).eval()({"inputs": torch.zeros(1, tokens, dtype=torch.int64, device="meta")})
    more = 2 * 0.85 * tokens * (config.width**2 + config.width * config.vocab_size)
    assert flops(config, tokens) + more == pytest.approx(counter.get_total_flops(), rel=1e-9)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"heads": 3}, "heads=3 does not divide width=32"),
        ({"window": 7}, "window=7 is odd"),
        ({"leading": 0}, "leading=0 is not positive"),
        ({"end": 0}, "start=0, end=0, mask=60 must be different ids"),
    ],
)
def test_impossible_sizes_are_refused(sizes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(CONFIG, **sizes)


@pytest.mark.parametrize("tokens", [1, 4, 9, 40])
@pytest.mark.parametrize("leading", [1, 3])
def test_the_band_is_attention_with_a_mask(tokens: int, leading: int) -> None:
    random = torch.Generator().manual_seed(0)
    query, keys, values = torch.randn(3, 2, 4, tokens, 6, generator=random)
    place = torch.arange(tokens)
    seen = ((place - place[:, None]).abs() <= 3) | (place < leading)
    expected = torch.nn.functional.scaled_dot_product_attention(query, keys, values, attn_mask=seen)
    torch.testing.assert_close(banded(query, keys, values, 3, leading, lambda weights: weights), expected)


def test_cost_and_memory_grow_with_the_tokens_and_not_their_square() -> None:
    config = replace(CONFIG, context=4096, window=32)
    attention = Longformer(config).blocks["0"].attention
    costs, sizes, largest = [], [], []
    for tokens in (512, 1024):
        x = torch.randn(1, tokens, config.width, requires_grad=True)
        with FlopCounterMode(display=False) as counter, entries.kept(x, *attention.parameters()) as storages:
            attention(x, None)
        costs.append(counter.get_total_flops())
        sizes.append(sum(storages.values()))
        largest.append(max(storages.values()))
    assert costs[1] == pytest.approx(2 * costs[0], rel=0.01)
    assert sizes[1] == pytest.approx(2 * sizes[0], rel=0.02)
    assert largest[1] < 4 * config.heads * 1024 * 1024 / 4, "no tensor of T x T"


def test_a_token_sees_its_window_and_the_leading_ones() -> None:
    """One block: a token far away changes nothing, a near one and a leading one do."""
    attention = entries.scattered(program()).blocks["0"].attention  # type: ignore[operator, union-attr]
    x = torch.randn(1, 40, 32, generator=torch.Generator().manual_seed(0))
    before = attention(x, None)
    for changed in (1, 20):
        y = x.clone()
        y[:, changed] += 1.0
        moved = ((attention(y, None) - before).abs().amax((0, 2)) > 1e-5).nonzero().flatten().tolist()
        near = set(range(changed - 4, changed + 5)) if changed > 1 else set(range(40))
        assert set(moved) == near | {0, 1}


def test_a_sample_is_framed_and_masked() -> None:
    batch = text(200)
    read, labels = framed(batch["inputs"], batch["key"], CONFIG)
    whole = read.where(labels < 0, labels)
    assert (whole[:, 0] == 0).all() and (whole[:, -1] == 2).all()
    assert torch.equal(whole[:, 1:-1], batch["inputs"][:, :-2])
    assert float((labels >= 0).sum()) / (200 * 38) == pytest.approx(0.15, abs=0.01)
    assert not (labels[:, [0, -1]] >= 0).any()
    with pytest.raises(ValueError, match="a sample has 2 tokens"):
        program()(text(1, 2))
    with pytest.raises(ValueError, match="81 tokens, but context=80"):
        program()({"inputs": torch.zeros(1, 81, dtype=torch.int64)})


def test_a_sample_is_drawn_by_itself() -> None:
    whole, model = text(), program(0.3)
    halves = [model(entries.rows(whole, part))["loss"][0] for part in (slice(0, 1), slice(1, 4))]
    torch.testing.assert_close(halves[0] + halves[1], model(whole)["loss"][0])


def theirs() -> nn.Module:
    transformers = pytest.importorskip("transformers", reason="the oracle is not installed")
    other = transformers.LongformerForMaskedLM(transformers.LongformerConfig(**write_config(CONFIG)))
    return entries.scattered(other)


def ask(model: nn.Module, inputs: Tensor, labels: Tensor | None = None, **more: Any) -> Any:
    everywhere = torch.zeros_like(inputs)
    everywhere[:, : CONFIG.leading] = 1
    return model(inputs, labels=labels, global_attention_mask=everywhere, **more)


def test_their_weights_give_our_model_their_states_logits_loss_and_gradients() -> None:
    other, ours, batch = theirs(), program(), text()
    ours.load_state_dict(TRANSLATION.read(other.state_dict(), CONFIG))
    read, labels = framed(batch["inputs"], batch["key"], CONFIG)
    for training in (False, True):
        answer = ask(other.train(training), read, labels, output_hidden_states=True)
        torch.testing.assert_close(states(ours.train(training), read), answer.hidden_states[-1], rtol=0.0, atol=1e-5)
        torch.testing.assert_close(ours({"inputs": read})["logits"], answer.logits, rtol=1e-5, atol=1e-5)
    total, count = ours(batch)["loss"]
    torch.testing.assert_close(total / count, answer.loss, rtol=1e-5, atol=1e-5)
    answer.loss.backward()
    (total / count).backward()
    entries.check_gradients(entries.gradients(ours), TRANSLATION.read(entries.gradients(other), CONFIG))


def states(model: Longformer, inputs: Tensor) -> Tensor:
    """The last hidden states: what a stage without a head hands on."""
    head, model.head = model.head, None
    (found,) = model({"inputs": inputs})
    model.head = head
    assert isinstance(found, Tensor)
    return found


def test_our_weights_give_their_model_our_logits() -> None:
    ours, other, inputs = entries.scattered(program()), theirs(), text(2, 37)["inputs"]
    left = other.load_state_dict(TRANSLATION.write(ours.state_dict(), CONFIG), strict=False)
    assert left.missing_keys == ["lm_head.decoder.weight", "lm_head.decoder.bias"] and not left.unexpected_keys
    torch.testing.assert_close(ours({"inputs": inputs})["logits"], ask(other, inputs).logits, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("preset", PRESETS)
def test_sizes_there_and_back(preset: str) -> None:
    assert read_config(write_config(PRESETS[preset])) == PRESETS[preset]
    assert load_object(ENTRY.weights) is TRANSLATION
    with pytest.raises(ValueError, match="one window for all blocks"):
        read_config(write_config(CONFIG) | {"attention_window": [8, 16]})


def test_stages_in_a_row_are_the_whole() -> None:
    whole, first, last, batch = program(0.3), program(0.3), program(0.3), text()
    first.head, last.embed = None, None
    del first.blocks["1"], last.blocks["0"]
    state = first(batch)
    assert [(tuple(x.shape), "compute") for x in state] == list(boundary(CONFIG, 4, 40))
    torch.testing.assert_close(last(batch, *state), whole(batch))


def test_a_layout_never_changes_the_result(ranks: Callable[..., list[Any]]) -> None:
    strategies, sizes = ["ddp", "zero3", "tensor2", "pipeline2"], {"dropout": 0.1, "window": 8, "leading": 2}
    found = ranks(entries.differences, 2, name="longformer", strategies=strategies, config=sizes)[0]
    assert list(found) == strategies
    entries.check_differences(found)


def test_it_learns(ranks: Callable[..., list[Any]]) -> None:
    found = ranks(
        learn,
        1,
        deadline=240,
        name="longformer",
        steps=180,
        batch=32,
        data={"sequence_length": 64},
        optimizer={"lr": 4e-3},
    )[0]
    assert found["held_out"]["loss"] < UNIGRAM - 0.15, found
