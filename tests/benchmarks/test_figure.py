"""Does a figure know whether it meets its bound, and does a missed one end a benchmark with 1?"""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def figure(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """benchmarks/figure.py, which stands on no package's path."""
    spec = importlib.util.spec_from_file_location("figure", BENCHMARKS / "figure.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "figure", module)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("value", "bounds", "ok"),
    [
        (1.03, {"most": 1.03}, True),
        (1.031, {"most": 1.03}, False),
        (20.0, {"least": 20.0}, True),
        (19.9, {"least": 20.0}, False),
        (float("nan"), {"most": 1.03}, False),
        (5.0, {}, None),
    ],
)
def test_a_bound_is_met_up_to_its_own_value(figure, value, bounds, ok):
    assert figure.Figure("step", "ours / theirs", value, "x", **bounds).ok is ok


def test_a_line_comes_back_as_the_same_figure(figure):
    made = figure.Figure("step", "ours / theirs", 1.01, "x", most=1.03, detail={"milliseconds": figure.spread([1, 2])})
    assert figure.from_line(made.to_json()) == made


def test_quartiles_of_one_measurement_are_the_measurement(figure):
    assert figure.spread([3.0]) == {"median": 3.0, "quartiles": [3.0, 3.0], "count": 1}
    assert figure.spread([1.0, 2.0, 3.0, 4.0, 100.0]) == {"median": 3.0, "quartiles": [2.0, 4.0], "count": 5}


@pytest.mark.parametrize(("values", "code"), [((1.0, 1.0), 0), ((2.0, 1.0), 1), ((1.0, 2.0), 1)])
def test_a_missed_bound_ends_the_benchmark_with_1(figure, capsys, values, code):
    with pytest.raises(SystemExit) as left:
        figure.report(figure.Figure("step", "one", value, "x", most=1.5) for value in values)
    assert left.value.code == code
    assert len(capsys.readouterr().out.splitlines()) == 2
