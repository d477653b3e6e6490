"""Is an entry of at most 20 lines outside the repository a full member?"""

from pathlib import Path

import pytest
import torch
from shardwright.models.catalog import configure, find, legal
from shardwright.models.draw import keys
from shardwright.models.entry import load_object
from shardwright.models.program import build, count_parameters

SOURCE = """\
import torch
from torch import nn
from torch.nn import functional as F
from shardwright import Entry


def build():
    return nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 2))


def loss(network, batch):
    return F.cross_entropy(network(batch["x"]), batch["y"], reduction="sum"), len(batch["y"])


x = torch.randn(64, 8, generator=torch.Generator().manual_seed(0))
data = [{"x": row, "y": (row.sum() > 0).long()} for row in x]
entry = Entry(build=build, loss=loss)
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "own_entry_of_a_user.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(tmp_path)
    return "own_entry_of_a_user:entry"


def test_it_has_at_most_20_lines() -> None:
    assert len(SOURCE.splitlines()) <= 20


def test_it_is_found_sized_and_counted(own: str) -> None:
    entry = find(own)
    config = configure(entry)
    assert (entry.name, config) == (own, None)
    assert count_parameters(entry, config) == 8 * 16 + 16 + 16 * 2 + 2
    assert "no tensor plan" in str(legal(entry, config)["tensor"])


def test_its_program_learns(own: str) -> None:
    torch.manual_seed(0)
    program = build(find(own))
    optimizer = torch.optim.SGD(program.parameters(), lr=0.5)
    rows = load_object(own.replace(":entry", ":data"))
    sample = torch.arange(len(rows))
    batch = {name: torch.stack([row[name] for row in rows]) for name in ("x", "y")}
    batch |= {"sample": sample, "key": keys(0, 0, sample)}
    means = []
    for _ in range(30):
        optimizer.zero_grad()
        total, count = program(batch)["loss"]
        (total / count).backward()
        optimizer.step()
        means.append(float(total.detach() / count))
    assert means[-1] < 0.5 * means[0]
