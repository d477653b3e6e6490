"""Is the attentive encoder-decoder the paper's, does it learn where to look, and does it split?"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from learning import train
from shardwright.jobs.verify import verify
from shardwright.models.layers.recurrent import GRU, by_gate
from shardwright.models.seq2seq.entry import PRESETS, Seq2SeqConfig, parameters, shapes, units
from shardwright.models.seq2seq.model import Seq2Seq
from shardwright.trainers.layout import parse_strategy
from shardwright.trainers.world import Worker
from torch import Tensor, nn
from torch.nn import functional as F

SMALL = Seq2SeqConfig(vocab_size=11, width=8, embedding=5, alignment=6, maxout=4)
B, T = 3, 7
UNIGRAM = 3.237  # nats per byte of the standard library's sources


def built() -> Seq2Seq:
    torch.manual_seed(0)
    return Seq2Seq(SMALL)


def batch() -> dict[str, Tensor]:
    source = torch.arange(B * T).view(B, T) * 7 % 11
    targets = torch.zeros(B, T, dtype=torch.int64)
    targets[0, :3] = -100  # three source tokens that need not be written
    return {"inputs": source, "targets": targets}


@pytest.mark.parametrize("preset", PRESETS)
def test_counts_are_those_of_the_built_model(preset: str) -> None:
    config = PRESETS[preset]
    with torch.device("meta"):
        program = Seq2Seq(config)
    assert {name: tuple(p.shape) for name, p in program.named_parameters()} == shapes(config)
    assert (
        parameters(config) == sum(p.numel() for p in program.parameters()) == sum(u.parameters for u in units(config))
    )


def test_the_preset_has_the_papers_sizes() -> None:
    """Appendix A.2.3: 1000 hidden units, embeddings of 620, 500 maxout units, 1000 in the alignment."""
    paper = PRESETS["rnnsearch"]
    assert (paper.width, paper.embedding, paper.maxout, paper.alignment) == (1000, 620, 500, 1000)
    assert paper.vocab_size == 30000


def test_impossible_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="maxout=0 is not positive"):
        Seq2SeqConfig(maxout=0)


def load(weights: Any, layer: GRU, suffix: str = "") -> None:
    """Ours into torch's."""
    with torch.no_grad():
        for theirs, ours in (("weight_ih", layer.input_weight), ("weight_hh", layer.hidden_weight)):
            getattr(weights, theirs + suffix).copy_(by_gate(ours))
        getattr(weights, "bias_ih" + suffix).copy_(by_gate(layer.bias))
        getattr(weights, "bias_hh" + suffix).zero_()[2 * layer.width :] = layer.reset_bias


def oracle_states(program: Seq2Seq, source: Tensor) -> tuple[Tensor, Tensor]:
    """Annotations and first state by torch's bidirectional GRU."""
    encoder, gru = program.encoder, nn.GRU(5, 8, batch_first=True, bidirectional=True)
    load(gru, encoder.forwards, "_l0")
    load(gru, encoder.backwards, "_l0_reverse")
    annotations, last = gru(encoder.embed(source))
    return annotations, torch.tanh(encoder.begin(last[1]))


def oracle_logits(program: Seq2Seq, annotations: Tensor, state: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """The decoder as the appendix writes it, one sentence, place and unit after the other."""
    decoder, cell = program.decoder, nn.GRUCell(5 + 16, 8)
    load(cell, decoder.cell)
    rows, looks = [], []
    for sentence in range(B):
        s, before = state[sentence], torch.tensor(11)
        for i in range(T):
            y = decoder.embed(before)
            scores = [
                decoder.attention.score @ torch.tanh(decoder.attention.state @ s + decoder.attention.annotation @ h)
                for h in annotations[sentence]
            ]
            weights = torch.stack(scores).softmax(0)
            context = sum(weight * h for weight, h in zip(weights, annotations[sentence], strict=True))
            pairs = decoder.maxout(torch.cat((s, y, context)))
            rows.append(decoder.output(torch.stack([torch.maximum(*pair) for pair in pairs.split(2)])))
            looks.append(weights)
            s, before = cell(torch.cat((y, context))[None], s[None])[0], target[sentence, i]
    return torch.stack(rows).view(B, T, 11), torch.stack(looks).view(B, T, T)


@pytest.mark.parametrize("training", [True, False])
def test_it_is_torchs_gru_and_the_papers_attention(training: bool) -> None:
    program, given = built().train(training), batch()
    source, target = given["inputs"], given["inputs"].flip(1)
    annotations, first = oracle_states(program, source)
    for ours, theirs in zip(program.encoder(source), (annotations, first), strict=True):
        torch.testing.assert_close(ours, theirs)
    logits, weights = oracle_logits(program, annotations, first, target)
    found = program.decoder(annotations, first, target)
    torch.testing.assert_close(found, (logits, weights))
    kept = torch.ones(B, T, dtype=torch.bool)
    kept[0, -3:] = False
    loss = F.cross_entropy(logits[kept], target[kept], reduction="sum")
    answer = program(given)
    torch.testing.assert_close(answer["loss"], (loss, torch.tensor(float(B * T - 3))))
    parameters = [p for n, p in program.named_parameters() if "attention" in n or "embed" in n]
    mine = torch.autograd.grad(answer["loss"][0], parameters)
    theirs = torch.autograd.grad(loss, parameters)
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a, b)


def test_the_future_of_the_target_is_not_seen() -> None:
    program, source = built(), batch()["inputs"]
    annotations, first = program.encoder(source)
    target = source.flip(1)
    other = target.clone()
    other[:, 4:] = (other[:, 4:] + 1) % 11
    (a, _), (b, _) = program.decoder(annotations, first, target), program.decoder(annotations, first, other)
    torch.testing.assert_close(a[:, :5], b[:, :5])
    assert not torch.allclose(a[:, 5:], b[:, 5:])


def learnt(worker: Worker) -> dict[str, Any]:
    made = train(
        worker,
        "seq2seq",
        250,
        data={"sequence_length": 12},
        optimizer={"lr": 5e-3, "weight_decay": 0.0},
    )
    program: Any = made.sharded.program.eval()
    source = torch.stack([torch.tensor(made.source.held_out[i]["inputs"]) for i in range(20)])
    _, weights = program.decoder(*program.encoder(source), source.flip(1))
    looked = weights.argmax(-1)
    return {"loss": made.terms[-1]["loss"], "right": (looked == 11 - torch.arange(12)).float().mean().item()}


def test_it_learns_to_write_backwards(ranks: Callable[..., list[Any]]) -> None:
    """Below what a model without context reaches, by looking, for each token, near where it was read."""
    (found,) = ranks(learnt, 1, deadline=200)
    assert found["loss"] < 0.5 * UNIGRAM
    assert found["right"] > 0.5  # one in twelve by chance


def differences(worker: Worker, strategy: str) -> dict[str, float] | None:
    config = {"vocab_size": 32, "width": 16, "embedding": 8, "alignment": 8, "maxout": 8}
    return verify(worker, "seq2seq", "", config, "", strategy, {})


@pytest.mark.parametrize("strategy", ["zero3", "tensor2", "pipeline2", "tensor2_pipeline2"])
def test_a_layout_never_changes_the_result(ranks: Callable[..., list[Any]], strategy: str) -> None:
    found = ranks(differences, parse_strategy(strategy).world_size, strategy=strategy)[0]
    assert all(value <= 1e-5 for value in found.values()), found
