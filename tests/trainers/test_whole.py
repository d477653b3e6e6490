"""Does a checkpoint come back as one whole model, whatever layout saved it?"""

from pathlib import Path

import pytest
import torch
from shardwright.models.catalog import configure, find
from shardwright.models.entry import Entry
from shardwright.models.program import build
from shardwright.trainers.checkpoint.manifest import CheckpointError
from shardwright.trainers.checkpoint.store import save
from shardwright.trainers.state import persistent_buffers
from shardwright.trainers.whole import whole_program


def normed() -> torch.nn.Module:
    """A network with a buffer that is learned, and two names for one weight."""
    network = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.BatchNorm1d(3), torch.nn.Linear(3, 3))
    network[2].weight = network[0].weight
    return network


OWN = Entry(build=normed, name="own", tied=(("0.weight", "2.weight"),))
GPT2 = find("gpt2")


@pytest.mark.parametrize(("entry", "config"), [(GPT2, configure(GPT2, "tiny")), (OWN, None)], ids=["gpt2", "own"])
def test_every_weight_and_buffer_comes_back(tmp_path: Path, entry: Entry, config: object) -> None:
    program = build(entry, config)
    state = {**dict(program.named_parameters()), **persistent_buffers(program)}
    for value in state.values():
        value.data = torch.randn(value.shape).to(value.dtype)
    saved = {f"model.{name}": value.detach() for name, value in state.items()}
    path = save(tmp_path, 7, {**saved, "optimizer.x.step": torch.ones(1)}, {"step": 7}, attempt=0, keep=1)
    found = whole_program(entry, config, path)
    assert found.state_dict().keys() == program.state_dict().keys()
    assert all(torch.equal(value, program.state_dict()[name]) for name, value in found.state_dict().items())


def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path, 1, {"model.weight": torch.ones(2)}, {}, attempt=0, keep=1)
    with pytest.raises(CheckpointError):
        whole_program(OWN, None, path)
