"""Does the worked example of a new entry work as it stands?"""

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
from shardwright import models
from shardwright.models.catalog import configure, find, legal
from shardwright.models.draw import keys
from shardwright.models.program import build


@pytest.fixture
def package(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The example's folder, as a package below shardwright.models."""
    record, program = re.findall(r"```python\n(.*?)```", (root / "CONTRIBUTING.md").read_text(), re.S)
    folder = tmp_path / "highway"
    folder.mkdir()
    for name, text in (("__init__", ""), ("entry", record), ("model", program)):
        (folder / f"{name}.py").write_text(text)
    assert isinstance(models, ModuleType)
    monkeypatch.setattr(models, "__path__", [*models.__path__, str(tmp_path)])
    yield "shardwright.models.highway.entry:ENTRY"
    for name in [name for name in sys.modules if name.startswith("shardwright.models.highway")]:
        del sys.modules[name]


def test_its_record_tells_the_truth(package: str) -> None:
    entry = find(package)
    for config in entry.presets.values():
        with torch.device("meta"):
            built = {name: tuple(p.shape) for name, p in build(entry, config).named_parameters()}
        assert entry.shapes is not None and entry.parameters is not None and entry.units is not None
        assert entry.shapes(config) == built
        assert entry.parameters(config) == sum(unit.parameters for unit in entry.units(config))
    assert legal(entry, configure(entry))["tensor"] == (1, 2, 4, 8, 16, 32)


def test_its_program_learns(package: str) -> None:
    torch.manual_seed(0)
    program = build(find(package), configure(find(package)))
    batch = {"image": torch.rand(16, 1, 8, 8), "label": torch.arange(16) % 10, "key": keys(0, 0, torch.arange(16))}
    rule, losses = torch.optim.Adam(program.parameters(), lr=1e-2), []
    for _ in range(60):
        rule.zero_grad()
        loss, count = program(batch)["loss"]
        loss.backward()
        rule.step()
        losses.append(float(loss.detach() / count))
    assert losses[-1] < 0.5 * losses[0]


def test_it_is_cut_for_a_pipeline(package: str) -> None:
    program = build(find(package), configure(find(package)))
    batch = {"image": torch.rand(4, 1, 8, 8), "label": torch.arange(4), "key": keys(0, 0, torch.arange(4))}
    whole = program(batch)["loss"][0]
    first, last = program.first, program.last
    program.last = None
    (stream,) = program(batch)
    program.first, program.last, program.layers = None, last, torch.nn.ModuleDict()
    torch.testing.assert_close(program(batch, stream)["loss"][0], whole)
    assert first is not None
