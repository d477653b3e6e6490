"""What do the tests of an entry share? Its record held against the built model, batches, and strategies compared."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from fnmatch import fnmatchcase
from typing import Any

import torch
from shardwright.jobs.verify import verify_each
from shardwright.models.catalog import configure, find, legal
from shardwright.models.draw import keys
from shardwright.models.entry import Entry
from shardwright.models.program import build
from shardwright.trainers.world import Worker
from torch import Tensor, nn

TOLERANCE = 1e-5


def on_meta(entry: Entry, config: Any) -> nn.Module:
    """The Program without memory for its weights."""
    with torch.device("meta"):
        return build(entry, config)


def check_record(entry: Entry, config: Any) -> None:
    """Counts, shapes, units, tensor plan and degrees are those of the built model."""
    program = on_meta(entry, config)
    assert entry.parameters is not None and entry.shapes is not None and entry.units is not None
    assert entry.shapes(config) == {name: tuple(weight.shape) for name, weight in program.named_parameters()}
    assert entry.parameters(config) == sum(weight.numel() for weight in program.parameters())
    seen: set[nn.Parameter] = set()
    for unit in entry.units(config):
        owned = set(program.get_submodule(unit.path).parameters()) - seen
        assert unit.parameters == sum(weight.numel() for weight in owned), unit.path
        seen |= owned
    assert seen == set(program.parameters())
    check_plan(entry, config, program)


def check_plan(entry: Entry, config: Any, program: nn.Module) -> None:
    """Every pattern of the tensor plan names modules, and every degree can be cut."""
    assert entry.tensor is not None
    plan, modules = entry.tensor(config), dict(program.named_modules())
    for pattern in (*plan.columns, *plan.rows, *plan.inputs):
        assert any(fnmatchcase(name, pattern) for name in modules), pattern
    degrees = legal(entry, config)["tensor"]
    assert degrees and isinstance(degrees, tuple)
    for dim, patterns in ((0, plan.columns), (1, plan.rows)):
        for name, module in modules.items():
            if any(fnmatchcase(name, pattern) for pattern in patterns):
                assert module.weight.shape[dim] % degrees[-1] == 0, name


def text(vocabulary: int, samples: int, tokens: int, step: int = 0, lowest: int = 3) -> dict[str, Tensor]:
    """A batch of random tokens, ids from `lowest` on."""
    random = torch.Generator().manual_seed(step)
    found = torch.randint(lowest, vocabulary, (samples, tokens + 1), generator=random)
    sample = torch.arange(samples)
    return {"inputs": found[:, :-1], "targets": found[:, 1:], "sample": sample, "key": keys(0, step, sample)}


def rows(batch: Mapping[str, Tensor], part: slice) -> dict[str, Tensor]:
    """Some samples of a batch."""
    return {name: tensor[part] for name, tensor in batch.items()}


def scattered(model: nn.Module, scale: float = 0.3) -> nn.Module:
    """The model with every weight random, biases and norms too."""
    random = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(scale * torch.randn(weight.shape, generator=random))
    return model


def gradients(model: nn.Module) -> dict[str, Tensor]:
    """Of all parameters; zeros where there is none."""
    return {name: torch.zeros_like(w) if w.grad is None else w.grad for name, w in model.named_parameters()}


def check_gradients(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Equal to 1e-5 of the largest."""
    largest = max(float(gradient.abs().max()) for gradient in expected.values())
    for name, gradient in found.items():
        assert float((gradient - expected[name]).abs().max()) <= TOLERANCE * largest, name


@contextmanager
def kept(*known: Tensor) -> Iterator[dict[int, int]]:
    """Bytes of each storage that autograd keeps while this lasts, those of known tensors apart."""
    storages: dict[int, int] = {}
    apart = {tensor.untyped_storage().data_ptr() for tensor in known}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in apart:
            storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        yield storages


def differences(
    worker: Worker, name: str, strategies: list[str], config: dict[str, Any] | None = None
) -> dict[str, dict[str, float]] | None:
    """What strategies of one world size change in the result; call it by `ranks(differences, size, ...)`."""
    configure(find(name), "", config or {})
    return verify_each(worker, name, "", config or {}, "", strategies, {})


def check_differences(found: Mapping[str, Mapping[str, float]]) -> None:
    """None is above the bound."""
    assert all(value <= TOLERANCE for values in found.values() for value in values.values()), found
