"""The matrix says for each cell what was measured or why not; a cell that got worse is named."""

from dataclasses import replace
from pathlib import Path

import pytest
from shardwright.cluster.matrix import Matrix, cells, read, source, support_matrix, worse
from shardwright.cluster.matrix_page import page, write
from shardwright.cluster.verify import Verdict, Verification, refused

GOOD = Verdict("ddp", 2, 1e-7, 2e-7, 1e-8, 0.0, ok=True)
REFUSED = refused("tensor2", "tensor=2: own has no tensor plan, so only tensor=1 is possible")
FAILED = Verdict("zero3", 2, None, None, None, None, ok=False, reason="a rank failed")
MATRIX = Matrix((Verification("own", (GOOD, REFUSED)),), {"own": "1f"})


def changed(verdict: Verdict) -> Matrix:
    return Matrix((Verification("own", (verdict, REFUSED)),))


def test_an_entry_under_a_layout_that_it_has_and_one_that_it_has_not() -> None:
    heard: list[tuple[str, str]] = []
    found = support_matrix(["gpt2"], ["ddp", "expert2"], lambda model, verdict: heard.append((model, verdict.name)))
    assert read(found.to_json()).sources["gpt2"] == source("gpt2")
    assert found.ok and set(heard) == {("gpt2", "ddp"), ("gpt2", "expert2")}
    ddp, expert = found.models[0].strategies
    assert ddp.ok and not ddp.refused
    assert expert.refused and not expert.ok and "gpt2 has no experts" in expert.reason


def test_json_and_back() -> None:
    assert read(MATRIX.to_json()) == MATRIX
    with pytest.raises(ValueError, match="no support matrix"):
        read('{"models": [{"strategies": []}]}')


def test_a_refusal_is_neither_a_pass_nor_a_failure() -> None:
    assert MATRIX.ok and not MATRIX.models[0].strategies[1].ok
    assert not changed(FAILED).ok


def test_what_was_proved_must_stay_so() -> None:
    assert list(worse(MATRIX, MATRIX)) == []
    assert list(worse(MATRIX, changed(replace(GOOD, loss_diff=9e-7)))) == []  # rounding
    (sentence,) = worse(MATRIX, changed(replace(GOOD, loss_diff=5e-6)))
    assert "own under ddp is further from one process than it was: loss_diff" in sentence
    (sentence,) = worse(MATRIX, changed(replace(FAILED, name="ddp")))
    assert "was equal to one process and is not any more: a rank failed" in sentence
    (sentence,) = worse(MATRIX, changed(refused("ddp", "not any more")))
    assert "not any more" in sentence
    assert list(worse(changed(replace(FAILED, name="ddp")), MATRIX)) == []


def test_the_page_has_every_cell_and_every_sentence(tmp_path: Path) -> None:
    text = page(MATRIX)
    assert "| own | 2e-07 | a |" in text and "- **a**: tensor=2: the entry has no tensor plan" in text
    write(MATRIX, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"support-matrix.md", "support-matrix.json"}
    assert cells(read((tmp_path / "support-matrix.json").read_text())).keys() == {("own", "ddp"), ("own", "tensor2")}
