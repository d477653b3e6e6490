"""Are entries found, sized and split as they say, and is every mistake answered with a way out?"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import pytest
from shardwright.models.catalog import ENTRIES, configure, find, legal, listing, refusal
from shardwright.models.entry import Entry, TensorPlan, Unit
from shardwright.models.gpt2.entry import ENTRY, PRESETS


@dataclass(frozen=True)
class Sizes:
    width: int = 8
    rate: float = 0.5
    kind: Literal["a", "b"] = "a"
    flags: tuple[int, ...] = ()
    pair: tuple[float, str] = (1.0, "x")
    limit: int | None = None
    deep: bool = False


OWN = Entry(build="nowhere:build", name="own", config=Sizes)


@pytest.mark.parametrize("name", ENTRIES)
def test_every_name_of_the_catalog_is_found(name: str) -> None:
    assert find(name).name == name
    assert find(name).paper


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gtp2", "there is no model 'gtp2' .did you mean 'gpt2'. known: .*gpt2.*., or package.module:object of your"),
        ("no.such.module:ENTRY", "there is no module 'no' on the import path"),
        ("shardwright.models.gpt2.entry:NOTHING", "has no object 'NOTHING'"),
        ("shardwright.models.gpt2.entry:PRESETS", "is a dict, expected a shardwright.Entry"),
        (":ENTRY", "is not of the form package.module:name"),
    ],
)
def test_what_is_no_entry_is_refused(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        find(name)


def test_what_an_own_module_lacks_is_not_hidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lacking_entry.py").write_text("import no_such_dependency\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="no_such_dependency"):
        find("lacking_entry:ENTRY")


def test_presets_are_chosen_and_changed() -> None:
    assert configure(ENTRY) == PRESETS["tiny"]
    assert configure(ENTRY, "xl") == PRESETS["xl"]
    assert configure(ENTRY, "small", {"layers": 2, "dropout": 0}) == replace(PRESETS["small"], layers=2, dropout=0.0)
    assert configure(OWN, "", {"width": 3}) == Sizes(width=3)
    assert configure(Entry(build="x:y", name="bare")) is None


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ({"rate": 1}, Sizes(rate=1.0)),
        ({"kind": "b"}, Sizes(kind="b")),
        ({"flags": [1, 2]}, Sizes(flags=(1, 2))),
        ({"pair": [2, "y"]}, Sizes(pair=(2.0, "y"))),
        ({"limit": 4}, Sizes(limit=4)),
        ({"limit": None}, Sizes()),
        ({"deep": True}, Sizes(deep=True)),
    ],
)
def test_values_take_the_type_of_their_size(overrides: dict[str, Any], expected: Sizes) -> None:
    found = configure(OWN, "", overrides)
    assert found == expected
    assert [type(value) for value in vars(found).values()] == [type(value) for value in vars(expected).values()]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"widht": 3}, "own has no size 'widht' .did you mean 'width'. known: width, rate"),
        ({"width": 3.0}, "width=3.0 is not of type int"),
        ({"width": True}, "width=True is not of type int"),
        ({"width": "3"}, "width='3' is not of type int"),
        ({"rate": "fast"}, "rate='fast' is not of type float"),
        ({"kind": "c"}, "kind='c' is not of type Literal.'a', 'b'."),
        ({"flags": [1, "x"]}, "flags='x' is not of type int"),
        ({"pair": [1.0]}, r"pair=\[1.0\] is not of type tuple.float, str."),
        ({"limit": 0.5}, r"limit=0.5 is not of type int \| None"),
        ({"deep": 1}, "deep=1 is not of type bool"),
    ],
)
def test_wrong_values_are_refused(overrides: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        configure(OWN, "", overrides)


def test_wrong_choices_are_refused() -> None:
    with pytest.raises(ValueError, match=r"gpt2 has no preset 'smal' .did you mean 'small'. known: tiny, small"):
        configure(ENTRY, "smal")
    with pytest.raises(ValueError, match="bare has no config, so width cannot be set"):
        configure(Entry(build="x:y", name="bare"), "", {"width": 3})
    with pytest.raises(ValueError, match="heads=5 does not divide width=128"):
        configure(ENTRY, "tiny", {"heads": 5})


def test_an_entry_that_says_nothing_cannot_be_cut() -> None:
    assert legal(OWN, Sizes()) == {
        "tensor": "own has no tensor plan, so only tensor=1 is possible",
        "pipeline": "own names no units and boundary to cut it at, so only pipeline=1 is possible",
        "context": "own names no batch tensors whose tokens could be split, so only context=1 is possible",
        "expert": "own has no experts, so only expert=1 is possible",
    }
    assert refusal(OWN, Sizes(), "tensor", 1) == refusal(OWN, Sizes(), "shard", 4) == ""
    assert refusal(OWN, Sizes(), "tensor", 2) == "tensor=2: own has no tensor plan, so only tensor=1 is possible"


def test_units_alone_say_how_many_stages_there_can_be() -> None:
    cut = replace(OWN, units=lambda config: (Unit("a", 1), Unit("b", 1)), boundary=lambda config, b, t: ())
    assert legal(cut, Sizes())["pipeline"] == (1, 2)
    planned = replace(cut, tensor=lambda config: TensorPlan(("a",), ("b",)))
    assert "own has no size to divide" in str(legal(planned, Sizes())["tensor"])


def test_degrees_and_sentences_of_the_entry_are_used() -> None:
    config = PRESETS["tiny"]
    assert legal(ENTRY, config) == {
        "tensor": (1, 2, 4),
        "pipeline": (1, 2, 3, 4, 5, 6),
        "context": (),
        "expert": "gpt2 has no experts, so only expert=1 is possible",
    }
    assert refusal(ENTRY, config, "tensor", 4) == ""
    assert refusal(ENTRY, config, "tensor", 3) == "tensor=3 does not divide heads=4 (legal: 1, 2, 4)"
    assert refusal(ENTRY, config, "pipeline", 7) == "pipeline=7 is more than the 6 units of gpt2 (legal: 1 to 6)"
    refused = replace(ENTRY, refusals={"tensor": "its input gradient has no graph"})
    assert refusal(refused, config, "tensor", 2) == "tensor=2: its input gradient has no graph"


def test_a_degree_divides_every_size_that_is_named() -> None:
    llama = find("llama")
    config = configure(llama, "", {"hidden": 90, "heads": 8, "kv_heads": 8})
    assert legal(llama, config)["tensor"] == (1, 2)
    assert refusal(llama, config, "tensor", 4) == "tensor=4 does not divide hidden=90 (legal: 1, 2)"
    assert refusal(llama, config, "ulysses", 4) == ""
    assert "names no heads to swap for tokens" in refusal(OWN, Sizes(), "ulysses", 2)


def test_the_listing_tells_sizes_and_splits() -> None:
    (gpt2,) = [entry for entry in listing() if entry["name"] == "gpt2"]
    found = gpt2["presets"]["tiny"]
    assert found["parameters"] == 842496
    assert (found["tensor"], found["pipeline"]) == ((1, 2, 4), (1, 2, 3, 4, 5, 6))
    assert list(gpt2["presets"]) == list(PRESETS)
