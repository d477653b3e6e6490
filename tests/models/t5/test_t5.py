"""Is it T5, as the paper and `transformers` have it, and does every layout train it alike?"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import entries
import pytest
import torch
from learning import learn
from shardwright.models.draw import keys
from shardwright.models.entry import load_object, ties
from shardwright.models.program import build
from shardwright.models.t5.entry import ENTRY, PRESETS, T5Config, boundary, flops, lengths, parameters, paths
from shardwright.models.t5.model import T5, buckets
from shardwright.models.t5.spans import corrupt, parts, shifted
from shardwright.models.t5.weights import TRANSLATION, read_config, write_config
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

OLD = T5Config(
    vocab_size=61,
    context=60,
    width=32,
    layers=2,
    heads=4,
    head_width=6,
    hidden=48,
    buckets=8,
    reach=20,
    dropout=0.0,
    start=50,
    end=51,
    sentinel=60,
    sentinels=9,
)
NEW = replace(OLD, activation="gated-gelu", tied=False)
CONFIGS = {"1.0": OLD, "1.1": NEW}
UNIGRAM = 3.24  # nats a byte of the standard library's text, what a model without context reaches
PAPER = {"small": 60.5e6, "base": 222.9e6, "v1_1_small": 76.9e6, "v1_1_base": 247.6e6}


def program(config: T5Config = OLD, dropout: float = 0.0) -> T5:
    torch.manual_seed(0)
    made = build(ENTRY, replace(config, dropout=dropout))
    assert isinstance(made, T5)
    return made


def text(samples: int = 4, tokens: int = 40, step: int = 0) -> dict[str, Tensor]:
    return entries.text(50, samples, tokens, step)


@pytest.mark.parametrize("preset", PRESETS)
def test_the_record_is_that_of_the_built_model(preset: str) -> None:
    entries.check_record(ENTRY, PRESETS[preset])


@pytest.mark.parametrize("preset", PAPER)
def test_presets_have_the_published_sizes(preset: str) -> None:
    assert parameters(PRESETS[preset]) == pytest.approx(PAPER[preset], rel=0.001)


@pytest.mark.parametrize("config", [*CONFIGS.values(), PRESETS["base"]])
def test_flops_are_those_that_torch_counts(config: T5Config) -> None:
    size = lengths(config, 60)
    batch = {"inputs": torch.zeros(1, size.inputs, dtype=torch.int64, device="meta")}
    batch["written"] = torch.zeros(1, size.targets, dtype=torch.int64, device="meta")
    with FlopCounterMode(display=False) as counter:
        entries.on_meta(ENTRY, config).eval()(batch)
    assert flops(config, 60) == counter.get_total_flops()


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"head_width": 0}, "head_width=0 is not positive"),
        ({"dropout": 1.0}, r"dropout=1.0 is not in \[0, 1\)"),
        ({"end": 61}, "end=61 is not an id below vocab_size=61"),
        ({"buckets": 6}, "buckets=6, reach=20: expected a multiple of 4"),
        ({"density": 1.0}, "density=1.0 must lie between 0 and 1"),
        ({"sentinels": 2}, "context=60 tokens need 3, and no id is below 0"),
    ],
)
def test_impossible_sizes_are_refused(sizes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(OLD, **sizes)


def test_the_published_context_fills_the_papers_lengths() -> None:
    assert lengths(PRESETS["base"], 568) == (85, 28, 512, 114)


@pytest.mark.parametrize("tokens", [2, 3, 16, 40, 60])
def test_spans_can_be_put_back(tokens: int) -> None:
    batch = text(50, tokens)
    inputs, targets = corrupt(batch["inputs"], batch["key"], OLD)
    size = lengths(OLD, tokens)
    assert inputs.shape == (50, size.inputs) and targets.shape == (50, size.targets)
    for read, written, whole in zip(inputs.tolist(), targets.tolist(), batch["inputs"].tolist(), strict=True):
        assert restored(read, written) == whole
        assert [token for token in read if token > 51] == [60 - span for span in range(size.spans)]
        assert sum(token < 50 for token in written) == size.noise


def restored(read: list[int], written: list[int]) -> list[int]:
    """The text, each sentinel in it replaced by what stands behind it in the other."""
    spans: dict[int, list[int]] = {}
    for token in written[:-1]:
        if token > 51:
            current = spans.setdefault(token, [])
        else:
            current.append(token)
    assert read[-1] == written[-1] == 51
    return [token for place in read[:-1] for token in (spans[place] if place > 51 else [place])]


def test_spans_are_cut_evenly_at_random() -> None:
    found = parts(keys(0, 0, torch.arange(4000)), "cut", 6, 3)
    assert (found.sum(1) == 6).all() and (found >= 1).all()
    shapes, often = found.unique(dim=0, return_counts=True)
    assert len(shapes) == 10, "all ways to cut 6 items into 3 parts"
    assert float(often.max()) < 1.2 * float(often.min()) + 40


def test_the_decoder_sees_only_what_it_has_written() -> None:
    model = entries.scattered(program()).eval()
    batch = text()
    written = torch.randint(50, (4, 9), generator=torch.Generator().manual_seed(4))
    changed = written.clone()
    changed[:, 5:] = (changed[:, 5:] + 1) % 50
    before, after = (model({"inputs": batch["inputs"], "written": tokens})["logits"] for tokens in (written, changed))
    torch.testing.assert_close(before[:, :5], after[:, :5])
    assert (before[:, 5:] - after[:, 5:]).abs().amax(-1).min() > 1e-3


def test_a_sample_is_drawn_by_itself() -> None:
    whole, model = text(), program(OLD, 0.3)
    halves = [model(entries.rows(whole, part))["loss"][0] for part in (slice(0, 1), slice(1, 4))]
    torch.testing.assert_close(halves[0] + halves[1], model(whole)["loss"][0])


def test_samples_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="a sample has 1 token; to take a span out"):
        program()(text(1, 1))
    with pytest.raises(ValueError, match="needs 10 sentinels, but sentinels=9"):
        program()(text(1, 200))


def theirs(config: T5Config) -> nn.Module:
    """Their model; this version of the library ties its projection to the embedding, whatever a config says."""
    transformers = pytest.importorskip("transformers", reason="the oracle is not installed")
    other = transformers.T5ForConditionalGeneration(transformers.T5Config(**write_config(config)))
    if not config.tied:
        other.lm_head.weight = nn.Parameter(torch.zeros_like(other.lm_head.weight))
    return entries.scattered(other, 0.5)


@pytest.mark.parametrize("version", CONFIGS)
def test_their_weights_give_our_model_their_logits_loss_and_gradients(version: str) -> None:
    config, batch = CONFIGS[version], text(4, 60)
    other, ours = theirs(config), program(config)
    ours.load_state_dict(TRANSLATION.read(other.state_dict(), config))
    inputs, targets = corrupt(batch["inputs"], batch["key"], config)
    for training in (False, True):
        answer = other.train(training)(input_ids=inputs, labels=targets)
        logits = ours.train(training)({"inputs": inputs, "written": shifted(targets, config.start)})["logits"]
        torch.testing.assert_close(logits, answer.logits, rtol=1e-5, atol=1e-5)
    assert float(logits.detach().std()) > 0.1
    total, count = ours(batch)["loss"]
    torch.testing.assert_close(total / count, answer.loss, rtol=1e-5, atol=1e-5)
    answer.loss.backward()
    (total / count).backward()
    expected = TRANSLATION.read(entries.gradients(other), config)
    entries.check_gradients(entries.gradients(ours), expected)


@pytest.mark.parametrize("version", CONFIGS)
def test_our_weights_give_their_model_our_loss(version: str) -> None:
    config, batch = CONFIGS[version], text()
    ours, other = entries.scattered(program(config), 0.5), theirs(config)
    left = other.load_state_dict(TRANSLATION.write(ours.state_dict(), config), strict=False)
    copies = ["encoder.embed_tokens.weight", "decoder.embed_tokens.weight", *["lm_head.weight"][: config.tied]]
    assert sorted(left.missing_keys) == sorted(copies) and not left.unexpected_keys
    inputs, targets = corrupt(batch["inputs"], batch["key"], config)
    total, count = ours(batch)["loss"]
    torch.testing.assert_close(total / count, other(input_ids=inputs, labels=targets).loss, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("two_sided", [True, False])
def test_distances_fall_into_their_buckets(two_sided: bool) -> None:
    modeling = pytest.importorskip("transformers.models.t5.modeling_t5", reason="the oracle is not installed")
    apart = torch.arange(300) - torch.arange(300)[:, None]
    expected = modeling.T5Attention._relative_position_bucket(apart, two_sided, 32, 128)
    assert torch.equal(buckets(300, 32, 128, two_sided, torch.device("cpu")), expected)


@pytest.mark.parametrize("preset", PRESETS)
def test_sizes_there_and_back(preset: str) -> None:
    config = PRESETS[preset]
    kept = {"density": config.density, "span": config.span}
    assert replace(read_config(write_config(config)), **kept) == config
    assert load_object(ENTRY.weights) is TRANSLATION
    with pytest.raises(ValueError, match="num_decoder_layers=3; this T5 only knows 2"):
        read_config(write_config(OLD) | {"num_decoder_layers": 3})


@pytest.mark.parametrize("version", CONFIGS)
@pytest.mark.parametrize("cut", range(1, 7))
def test_stages_in_a_row_are_the_whole(version: str, cut: int) -> None:
    config, batch = CONFIGS[version], text()
    whole, first, last = (program(config, 0.3) for _ in range(3))
    for index, path in enumerate(paths(config)):
        stage = last if index < cut else first
        above, _, name = path.rpartition(".")
        if above:
            del stage.get_submodule(above)[name]  # type: ignore[operator]
        else:
            setattr(stage, name, None)
    state = first(batch)
    assert [(tuple(x.shape), "compute") for x in state] == list(boundary(config, 4, 40)[cut])
    torch.testing.assert_close(last(batch, *state), whole(batch))


def test_the_projection_is_tied_in_the_first_version_alone() -> None:
    assert ties(ENTRY, OLD) == (("embed.tokens.weight", "head.weight"),) and not ties(ENTRY, NEW)
    for config in CONFIGS.values():
        model = program(config)
        assert model.head is not None and model.embed is not None
        assert (model.head.weight is model.embed.tokens.weight) == config.tied


@pytest.mark.parametrize("sizes", [{}, {"activation": "gated-gelu", "tied": False}])
def test_a_layout_never_changes_the_result(ranks: Callable[..., list[Any]], sizes: dict[str, Any]) -> None:
    strategies = ["ddp", "zero3", "tensor2", "pipeline2"] if not sizes else ["zero3", "tensor2", "pipeline2"]
    found = ranks(entries.differences, 2, name="t5", strategies=strategies, config={"dropout": 0.1, **sizes})[0]
    assert list(found) == strategies
    entries.check_differences(found)


def test_it_learns(ranks: Callable[..., list[Any]]) -> None:
    """Longer spans than the paper's have more text among the targets. The floor gives sentinels and end for nothing."""
    config = {"density": 0.3, "span": 10.0}
    size = lengths(replace(PRESETS["tiny"], **config), 64)
    found = ranks(
        learn,
        1,
        deadline=240,
        name="t5",
        steps=150,
        batch=32,
        config=config,
        data={"sequence_length": 64},
        optimizer={"lr": 6e-3},
    )[0]
    assert found["held_out"]["loss"] < UNIGRAM * size.noise / size.targets - 0.1, found
