"""The support matrix that the project shows: whole, proved, and not worse today than when it was written.

Verified anew are the core, an entry that has every strategy but expert parallel, and every entry whose own code
is not the one that was verified; `shardwright verify model --all` does all of it.
"""

from pathlib import Path

import pytest
from shardwright.cluster.matrix import Matrix, read, source, support_matrix, worse
from shardwright.cluster.matrix_page import page
from shardwright.cluster.verify import ENGINES, STRATEGIES
from shardwright.models.catalog import ENTRIES, find

DOCS = Path(__file__).parents[2] / "docs"
CORE = "gpt2"
REPLICAS = ("ddp", "zero1", "zero2", "zero3", "hsdp2x2")


@pytest.fixture(scope="module")
def written() -> Matrix:
    return read((DOCS / "support-matrix.json").read_text())


def held(matrix: Matrix, strategy: str) -> set[str]:
    """Entries that hold under a strategy."""
    return {one.model for one in matrix.models for verdict in one.strategies if verdict.name == strategy and verdict.ok}


def test_it_has_every_entry_and_every_strategy(written: Matrix) -> None:
    assert [one.model for one in written.models] == list(ENTRIES)
    for one in written.models:
        assert [verdict.name for verdict in one.strategies] == [*STRATEGIES, *ENGINES]
    assert (DOCS / "support-matrix.md").read_text() == page(written)


def test_no_cell_failed_and_every_refusal_is_a_sentence(written: Matrix) -> None:
    assert written.ok
    for one in written.models:
        for verdict in one.strategies:
            assert verdict.ok or (verdict.refused and len(verdict.reason.split()) > 4), (one.model, verdict)


def test_what_is_trained_by_gradients_holds_under_replicas_and_zero(written: Matrix) -> None:
    trained = {name for name in ENTRIES if not find(name).solver}
    for strategy in REPLICAS:
        assert trained <= held(written, strategy), strategy


def test_most_entries_split(written: Matrix) -> None:
    assert len(held(written, "tensor2")) >= 0.75 * len(ENTRIES)
    assert len(held(written, "pipeline2")) >= 0.55 * len(ENTRIES)


@pytest.mark.timeout(900)
def test_no_cell_of_the_core_or_of_a_changed_entry_got_worse(written: Matrix) -> None:
    changed = [name for name in ENTRIES if written.sources.get(name) != source(name)]
    now = support_matrix(dict.fromkeys([CORE, *changed]))
    assert now.ok, [verdict for one in now.models for verdict in one.strategies if not (verdict.ok or verdict.refused)]
    assert not list(worse(written, now))
