"""Does the ledger count every storage once, and see it grow, shrink and go?"""

import gc

import torch
from shardwright.trainers.measure import Ledger, worker_bytes
from shardwright.trainers.world import Worker

KIB = 1024


def zeros(size: int) -> torch.Tensor:
    return torch.zeros(size, dtype=torch.uint8)


def test_views_count_once_and_freed_storages_not_at_all() -> None:
    with Ledger() as ledger:
        first = zeros(4 * KIB)
        view = first[KIB:].view(3, KIB)
        assert ledger.mark("one").live == 4 * KIB
        second = zeros(2 * KIB)
        assert ledger.mark("two").live == 6 * KIB
        del second
        gone = ledger.mark("gone")
        assert (gone.live, gone.peak) == (4 * KIB, 6 * KIB)
        del first
        assert ledger.mark("the view keeps it").live == 4 * KIB
        del view
        assert ledger.mark("empty").live == 0


def test_a_peak_inside_an_expression_is_seen() -> None:
    with Ledger() as ledger:
        x = torch.ones(KIB)
        ledger.mark("before")
        y = (x + 1).mul(2).sum()
        after = ledger.mark("after")
    assert after.live == x.nbytes + y.nbytes
    assert after.peak == 3 * x.nbytes


def test_a_resized_storage_is_followed() -> None:
    """As fully_shard frees and makes its gathered parameters."""
    with Ledger() as ledger:
        x = zeros(4 * KIB)
        x.untyped_storage().resize_(0)
        assert ledger.mark("freed").live == 0
        x.untyped_storage().resize_(4 * KIB)
        assert ledger.mark("back").live == 4 * KIB


def test_what_backward_keeps_and_frees() -> None:
    weight = torch.ones(KIB, requires_grad=True)
    with Ledger() as ledger:
        y = (weight * weight).exp().sum()
        kept = ledger.mark("kept").live
        y.backward()
        del y
        gc.collect()
        left = ledger.mark("left").live
    assert kept == 4 * KIB * 2 + 4  # the weight, the exponentials and their sum; the squares are not needed
    assert left == 4 * KIB * 2  # the weight and its gradient


def ask(worker: Worker) -> int | None:
    """What a rank is told that it may use, when each sees another share."""
    return worker_bytes(worker.device, worker.rank + 1)


def test_all_ranks_are_told_the_same(ranks) -> None:  # type: ignore[no-untyped-def]
    first, second = ranks(ask, 2)
    assert first == second > 0
