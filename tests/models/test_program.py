"""Does every entry become one module whose forward is the objective?"""

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from shardwright.models.entry import Entry
from shardwright.models.gpt2.entry import ENTRY, PRESETS
from shardwright.models.program import Objective, build, count_parameters, named_terms
from torch import Tensor, nn

LOSSES = torch.tensor([1.0, 2.0])


@dataclass(frozen=True)
class Sizes:
    width: int = 3


def squares(network: nn.Module, batch: dict[str, Tensor]) -> Any:
    errors = (network(batch["x"]) - batch["y"]).square()
    return errors.sum(), errors.numel()


OWN = Entry(build=lambda config: nn.Linear(config.width, 1), loss=squares, config=Sizes)


def test_a_network_and_its_loss_become_an_objective() -> None:
    program = build(OWN, Sizes())
    assert isinstance(program, Objective)
    assert [name for name, _ in program.named_parameters()] == ["network.weight", "network.bias"]
    batch = {"x": torch.ones(5, 3), "y": torch.zeros(5, 1)}
    total, count = program(batch)["loss"]
    torch.testing.assert_close(total, (program.network(batch["x"]) ** 2).sum())
    assert (float(count), count.dim(), count.dtype) == (5.0, 0, torch.float32)


def test_a_build_without_config_takes_no_argument() -> None:
    assert isinstance(build(Entry(build=lambda: nn.Linear(2, 2))), nn.Linear)


def test_a_program_of_the_catalog_is_left_as_it_is() -> None:
    assert type(build(ENTRY, PRESETS["tiny"])).__name__ == "GPT2"


def test_a_build_of_something_else_is_refused() -> None:
    with pytest.raises(TypeError, match=r"build of own returned a list, expected an nn.Module"):
        build(Entry(build=list, name="own"))


def test_parameters_are_counted_without_memory_where_the_entry_does_not_tell() -> None:
    assert count_parameters(OWN, Sizes(width=2**40)) == 2**40 + 1
    assert count_parameters(ENTRY, PRESETS["xl"]) == 1557611200


@pytest.mark.parametrize(
    "value",
    [
        (LOSSES.sum(), 2),
        (LOSSES.sum(), torch.tensor(2)),
        [LOSSES.sum(), 2.0],
        {"loss": (LOSSES.sum(), 2), "hits": (torch.tensor(1.0), torch.tensor(2.0))},
    ],
)
def test_sums_and_counts_are_taken(value: Any) -> None:
    terms = named_terms(value)
    assert set(terms) == (set(value) if isinstance(value, dict) else {"loss"})
    assert [float(number) for number in terms["loss"]] == [3.0, 2.0]
    assert all(number.dim() == 0 and isinstance(number, Tensor) for term in terms.values() for number in term)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (
            LOSSES.mean(),
            r"term 'loss' is a torch.float32 tensor of shape \(\), expected \(sum, count\).*A mean would be",
        ),
        (LOSSES, r"term 'loss' is a torch.float32 tensor of shape \(2,\), expected \(sum, count\)"),
        (None, r"term 'loss' is a NoneType, expected \(sum, count\)"),
        ((LOSSES.sum(), 2, 3), r"term 'loss' is a tuple of 3, expected \(sum, count\)"),
        ({"nll": (LOSSES.sum(), 2)}, r"returned the terms \['nll'\]; \"loss\" must be among them"),
        ({"loss": LOSSES.sum()}, r"term 'loss' is .*expected \(sum, count\)"),
        ((LOSSES, 2), r"the sum of term 'loss' is a torch.float32 tensor of shape \(2,\), expected a 0-dim floating"),
        ((3.0, 2), r"the sum of term 'loss' is a float, expected a 0-dim floating-point tensor"),
        (
            (torch.tensor(3), 2),
            r"the sum of term 'loss' is a torch.int64 tensor of shape \(\), expected a 0-dim floating",
        ),
        ((LOSSES.sum(), LOSSES), r"the count of term 'loss' is .*expected a number or a 0-dim tensor"),
        ((LOSSES.sum(), "2"), r"the count of term 'loss' is a str"),
    ],
)
def test_anything_else_is_refused_in_words(value: Any, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        named_terms(value)
