"""Does the torch-free record agree with the model that is built?"""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from fnmatch import fnmatchcase

import pytest
import torch
from shardwright.models.catalog import legal
from shardwright.models.gpt2.entry import (
    ENTRY,
    PRESETS,
    GPT2Config,
    activations,
    ends,
    flops,
    parameters,
    shapes,
    units,
)
from shardwright.models.gpt2.model import GPT2
from shardwright.models.layers.tokens import Tokens
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

TINY = PRESETS["tiny"]
PAPER = {"small": 124e6, "medium": 355e6, "large": 774e6, "xl": 1558e6}


def built(config: GPT2Config) -> GPT2:
    with torch.device("meta"):
        return GPT2(config)


@pytest.mark.parametrize("preset", PRESETS)
def test_counts_are_those_of_the_built_model(preset: str) -> None:
    config = PRESETS[preset]
    program = built(config)
    assert parameters(config) == sum(weight.numel() for weight in program.parameters())
    seen: set[nn.Parameter] = set()
    for unit in units(config):
        owned = set(program.get_submodule(unit.path).parameters()) - seen
        assert unit.parameters == sum(weight.numel() for weight in owned), unit.path
        seen |= owned
    assert seen == set(program.parameters())


@pytest.mark.parametrize("preset", PAPER)
def test_presets_have_the_papers_sizes(preset: str) -> None:
    assert parameters(PRESETS[preset]) == pytest.approx(PAPER[preset], rel=0.005)
    assert (PRESETS[preset].vocab_size, PRESETS[preset].context, PRESETS[preset].dropout) == (50257, 1024, 0.1)


def test_the_first_preset_is_tiny() -> None:
    assert next(iter(PRESETS)) == "tiny"
    assert parameters(TINY) == pytest.approx(0.8e6, rel=0.1)


@pytest.mark.parametrize("preset", ["tiny", "small", "xl"])
def test_flops_are_those_that_torch_counts(preset: str) -> None:
    config, tokens = PRESETS[preset], 96
    batch = {"inputs": torch.zeros(1, tokens, dtype=torch.int64, device="meta")}
    with FlopCounterMode(display=False) as counter:
        built(config).eval()(batch)
    assert flops(config, tokens) == counter.get_total_flops()


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


@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_activations_are_the_bytes_that_a_block_keeps(dropout: float, dtype: torch.dtype) -> None:
    config = replace(TINY, dropout=dropout)
    block = GPT2(config).blocks["1"].to(dtype)
    x = torch.randn(8, 128, config.width, dtype=dtype, requires_grad=True)
    key = torch.zeros(8, 2, dtype=torch.int32)
    with kept(*block.parameters()) as storages:
        y = block(x, key, Tokens(128))
    assert y.shape == x.shape
    assert activations(config, 8, 128, dtype.itemsize) == pytest.approx(sum(storages.values()), rel=0.02)


@pytest.mark.parametrize("vocabulary", [256, 50257])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_head_keeps_what_the_record_says(vocabulary: int, dtype: torch.dtype) -> None:
    """Chunked logits are not kept: backward makes them anew."""
    config = replace(TINY, vocab_size=vocabulary)
    head, targets = GPT2(config).head, torch.zeros(8, 128, dtype=torch.int64)
    assert head is not None
    head = head.to(dtype)
    x = torch.randn(8, 128, config.width, dtype=dtype, requires_grad=True)
    with kept(targets, *head.parameters()) as storages:
        terms = head(x, targets)
    assert set(terms) == {"loss"}
    stays, _ = ends(config, 8, 128, dtype.itemsize)
    assert stays == pytest.approx(sum(storages.values()), rel=0.02)


@pytest.mark.parametrize("preset", PRESETS)
def test_shapes_are_those_of_the_built_model(preset: str) -> None:
    assert shapes(PRESETS[preset]) == {name: tuple(w.shape) for name, w in built(PRESETS[preset]).named_parameters()}


def test_the_plan_names_modules_that_exist() -> None:
    names = [name for name, _ in built(TINY).named_modules()]
    assert ENTRY.tensor is not None
    plan = ENTRY.tensor(TINY)
    for patterns in (plan.columns, plan.rows, plan.inputs):
        for pattern in patterns:
            assert sum(fnmatchcase(name, pattern) for name in names) == TINY.layers, pattern
    weights = [name for name, _ in built(TINY).named_parameters(remove_duplicate=False)]
    for pattern in (*plan.vocabulary, *plan.between):
        assert any(fnmatchcase(name, pattern) for name in weights), pattern
    linear = {name for name, module in built(TINY).named_modules() if isinstance(module, nn.Linear)}
    split = {name for name in linear if any(fnmatchcase(name, p) for p in (*plan.columns, *plan.rows))}
    assert split == linear


def test_degrees_divide_what_they_split() -> None:
    for config in PRESETS.values():
        found = legal(ENTRY, config)
        assert all(config.heads % degree == 0 and config.width % degree == 0 for degree in found["tensor"])
        assert found["tensor"][0] == 1 and found["tensor"][-1] == config.heads
        assert found["pipeline"] == tuple(range(1, len(units(config)) + 1))


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"heads": 3}, "heads=3 does not divide width=128"),
        ({"layers": 0}, "layers=0 is not positive"),
        ({"dropout": 1.0}, r"dropout=1.0 is not in \[0, 1\)"),
    ],
)
def test_impossible_sizes_are_refused(sizes: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(TINY, **sizes)


def test_the_record_and_the_catalog_import_no_torch() -> None:
    code = (
        "import sys; from shardwright.models.catalog import listing, find, configure, legal; listing();"
        "e = find('gpt2'); c = configure(e); [f(c) for f in (e.units, e.tensor, e.shapes, e.parameters)];"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
