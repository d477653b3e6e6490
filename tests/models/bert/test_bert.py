"""Is it BERT, as the paper and `transformers` have it, and does every layout train it alike?"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import entries
import pytest
import torch
from learning import learn
from shardwright.models.bert.entry import ENTRY, PRESETS, BertConfig, activations, boundary, flops, parameters
from shardwright.models.bert.model import Bert
from shardwright.models.bert.pretraining import SHORTEST, counts, pairs
from shardwright.models.bert.weights import TRANSLATION, read_config, write_config
from shardwright.models.draw import keys
from shardwright.models.entry import load_object
from shardwright.models.program import build
from shardwright.trainers.step import Objective
from shardwright.trainers.world import Worker
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

CONFIG = BertConfig(61, 24, width=32, layers=2, heads=4, hidden=48, dropout=0.0, cls=58, sep=59, mask=60)
UNIGRAM = 3.24  # nats a byte of the standard library's text, what a model without context reaches
PAPER = {"base": 110e6, "large": 340e6}


def program(dropout: float = 0.0) -> Bert:
    torch.manual_seed(0)
    made = build(ENTRY, replace(CONFIG, dropout=dropout))
    assert isinstance(made, Bert)
    return made


@pytest.mark.parametrize("preset", PRESETS)
def test_the_record_is_that_of_the_built_model(preset: str) -> None:
    entries.check_record(ENTRY, PRESETS[preset])


@pytest.mark.parametrize("preset", PAPER)
def test_presets_have_the_papers_sizes(preset: str) -> None:
    assert parameters(PRESETS[preset]) == pytest.approx(PAPER[preset], rel=0.015)


def test_flops_are_those_that_torch_counts() -> None:
    """Without targets the logits of all tokens are made; in training those of 15 % of them."""
    config, tokens = PRESETS["tiny"], 96
    batch = {"inputs": torch.zeros(1, tokens, dtype=torch.int64, device="meta")}
    with FlopCounterMode(display=False) as counter:
        entries.on_meta(ENTRY, config).eval()(batch)
    more = 2 * 0.85 * tokens * (config.width**2 + config.width * config.vocab_size)
    assert flops(config, tokens) + more == pytest.approx(counter.get_total_flops(), rel=1e-9)


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_activations_are_the_bytes_that_a_block_keeps(dropout: float) -> None:
    config = replace(PRESETS["tiny"], dropout=dropout)
    block = Bert(config).blocks["1"]
    x, key = torch.randn(4, 128, config.width, requires_grad=True), keys(0, 0, torch.arange(4))
    with entries.kept(*block.parameters()) as storages:
        block(x, key)
    assert activations(config, 4, 128, 4) == pytest.approx(sum(storages.values()), rel=0.02)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"heads": 3}, "heads=3 does not divide width=32"),
        ({"layers": 0}, "layers=0 is not positive"),
        ({"dropout": 1.0}, r"dropout=1.0 is not in \[0, 1\)"),
        ({"mask": 61}, "mask=61 is not an id below vocab_size=61"),
        ({"mask": 58}, "cls=58, sep=59, mask=58 must be different ids"),
    ],
)
def test_impossible_sizes_are_refused(sizes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(CONFIG, **sizes)


def test_a_pair_is_two_sentences_of_the_sample() -> None:
    """Undoing the masks gives [CLS] A [SEP] B [SEP]; B is what follows A, or begins in its own middle."""
    batch = entries.text(58, 64, 23)
    found = pairs(batch["inputs"], batch["key"], CONFIG)
    whole = found.inputs.where(found.labels < 0, found.labels)
    assert whole.shape == batch["inputs"].shape
    assert (whole[:, [0, 11, 22]] == torch.tensor([58, 59, 59])).all()
    assert torch.equal(whole[:, 1:11], batch["inputs"][:, :10])
    for second, follows, apart in zip(whole[:, 12:22], batch["inputs"][:, 10:20], found.apart, strict=True):
        starts = [start for start in range(10) if torch.equal(second, follows.roll(-start))]
        assert starts == [0] if not apart else 2 <= starts[0] < 8, starts
    assert (found.segments[0] == (torch.arange(23) > 11).long()).all()
    assert 16 < found.apart.sum() < 48


def test_tokens_are_masked_as_the_paper_says() -> None:
    batch = entries.text(58, 400, 24)
    found = pairs(batch["inputs"], batch["key"], CONFIG)
    guessed = found.labels >= 0
    assert not guessed[:, [0, 11, 23]].any() and guessed.any(1).all(), "special tokens are not guessed, one always is"
    assert float(guessed.sum()) / (400 * 21) == pytest.approx(0.15, abs=0.01)
    now, then = found.inputs[guessed], found.labels[guessed]
    assert float((now == 60).float().mean()) == pytest.approx(0.8, abs=0.04)
    assert float((now == then).float().mean()) == pytest.approx(0.1, abs=0.03)


def test_counts_are_known_before_forward() -> None:
    batch = entries.text(58, 5, 20)
    terms = program()(batch)
    assert {name: float(count) for name, (_, count) in terms.items()} == {n: float(c) for n, c in counts(batch).items()}
    assert len({float(counts(entries.text(58, 5, 20, step))["mlm"]) for step in range(6)}) > 2, "they differ by batch"


def test_a_sample_is_drawn_by_itself() -> None:
    whole, model = entries.text(58, 4, 20), program(0.3)
    parts = [model(entries.rows(whole, part)) for part in (slice(0, 1), slice(1, 4))]
    for name, (total, _) in model(whole).items():
        torch.testing.assert_close(sum(part[name][0] for part in parts), total)


def test_a_sample_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="25 tokens, but context=24"):
        program()({"inputs": torch.zeros(1, 25, dtype=torch.int64)})
    with pytest.raises(ValueError, match=f"needs {SHORTEST} tokens, but a sample has 7"):
        program()(entries.text(58, 1, 7))


def theirs() -> nn.Module:
    transformers = pytest.importorskip("transformers", reason="the oracle is not installed")
    return entries.scattered(transformers.BertForPreTraining(transformers.BertConfig(**write_config(CONFIG))))


def ask(model: nn.Module, batch: dict[str, Tensor]) -> Any:
    found = pairs(batch["inputs"], batch["key"], CONFIG)
    return model(found.inputs, token_type_ids=found.segments, labels=found.labels, next_sentence_label=found.apart)


def test_their_weights_give_our_model_their_logits_losses_and_gradients() -> None:
    other, ours, batch = theirs(), program(), entries.text(58, 4, 24)
    ours.load_state_dict(TRANSLATION.read(other.state_dict(), CONFIG))
    found = pairs(batch["inputs"], batch["key"], CONFIG)
    for training in (False, True):
        logits, answer = ours.train(training)({"inputs": found.inputs, "segments": found.segments}), ask(other, batch)
        torch.testing.assert_close(logits["logits"], answer.prediction_logits, rtol=0.0, atol=1e-5)
        torch.testing.assert_close(logits["next"], answer.seq_relationship_logits, rtol=0.0, atol=1e-5)
    assert float(answer.prediction_logits.detach().std()) > 0.1
    loss = sum(total / count for total, count in ours(batch).values())
    torch.testing.assert_close(loss, answer.loss, rtol=1e-5, atol=1e-5)
    answer.loss.backward()
    loss.backward()
    entries.check_gradients(entries.gradients(ours), TRANSLATION.read(entries.gradients(other), CONFIG))


def test_our_weights_give_their_model_our_losses() -> None:
    ours, other, batch = entries.scattered(program()), theirs(), entries.text(58, 4, 24)
    left = other.load_state_dict(TRANSLATION.write(ours.state_dict(), CONFIG), strict=False)
    assert left.missing_keys == ["cls.predictions.decoder.weight", "cls.predictions.decoder.bias"]
    assert not left.unexpected_keys
    loss = sum(total / count for total, count in ours(batch).values())
    torch.testing.assert_close(loss, ask(other, batch).loss, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("preset", PRESETS)
def test_sizes_there_and_back(preset: str) -> None:
    assert read_config(write_config(PRESETS[preset])) == PRESETS[preset]
    assert load_object(ENTRY.weights) is TRANSLATION
    with pytest.raises(ValueError, match="hidden_act='relu'; this BERT only knows 'gelu'"):
        read_config(write_config(CONFIG) | {"hidden_act": "relu"})


def test_missing_and_foreign_tensors_are_named() -> None:
    state = program().state_dict()
    good = TRANSLATION.write(state, CONFIG)
    with pytest.raises(ValueError, match=r"lack bert.pooler.dense.bias \(1 in all\)"):
        TRANSLATION.read({name: x for name, x in good.items() if name != "bert.pooler.dense.bias"}, CONFIG)
    with pytest.raises(ValueError, match="are not BERT's: rotary"):
        TRANSLATION.read(good | {"rotary": torch.ones(1)}, CONFIG)


def test_stages_in_a_row_are_the_whole() -> None:
    whole, first, last, batch = program(0.3), program(0.3), program(0.3), entries.text(58, 4, 20)
    first.head, last.embed = None, None
    del first.blocks["1"], last.blocks["0"]
    state = first(batch)
    assert [(tuple(x.shape), "compute") for x in state] == list(boundary(CONFIG, 4, 20))
    torch.testing.assert_close(last(batch, *state), whole(batch))


def test_a_layout_never_changes_the_result(ranks: Callable[..., list[Any]]) -> None:
    strategies = ["ddp", "zero3", "tensor2", "pipeline2"]
    found = ranks(entries.differences, 2, name="bert", strategies=strategies, config={"dropout": 0.1})[0]
    assert list(found) == strategies
    entries.check_differences(found)


def weighed_alone(worker: Worker) -> dict[str, dict[str, float]] | None:
    """Each rank weighs its two terms by its own counts."""
    Objective._weights = lambda self: (  # type: ignore[method-assign]
        {name: 0.5 / sum(float(counts(batch)[name]) for batch in self.micro_batches) for name in ("mlm", "nsp")},
        1.0,
    )
    return entries.differences(worker, "bert", ["ddp"])


def told_wrongly(worker: Worker) -> str:
    """The record tells other counts than forward finds."""
    import shardwright.models.bert.pretraining as drawn

    right = drawn.counts
    drawn.counts = lambda batch: {name: count + 1 for name, count in right(batch).items()}
    try:
        entries.differences(worker, "bert", ["ddp"])
    except ValueError as error:
        return str(error)
    return ""


def test_terms_are_weighed_by_the_counts_of_the_whole_batch(ranks: Callable[..., list[Any]]) -> None:
    (found,) = ranks(weighed_alone, 2)[0].values()
    assert max(found.values()) > 10 * entries.TOLERANCE, found
    assert "the entry's `counts` told" in ranks(told_wrongly, 2)[0]


def test_it_learns(ranks: Callable[..., list[Any]]) -> None:
    found = ranks(learn, 1, deadline=240, name="bert", steps=230, batch=128, data={"sequence_length": 16})[0]
    assert found["held_out"]["mlm"] < UNIGRAM - 0.15, found


def test_it_learns_which_sentences_follow() -> None:
    """Where every sample counts upwards from 0, the second sentence's first token tells."""
    model, sample = program(), torch.arange(32)
    rule = torch.optim.AdamW(model.parameters(), 1e-3)
    for step in range(110):
        key = keys(0, step, sample)
        total, count = model({"inputs": torch.arange(20).repeat(32, 1), "targets": sample, "key": key})["nsp"]
        rule.zero_grad()
        (total / count).backward()
        rule.step()
    assert float(total.detach() / count) < 0.2
