"""Does the plan say what will happen, add up, and stay cheap?"""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from shardwright.cluster.launch_plan import LaunchPlan, amount
from shardwright.cluster.plan import plan
from shardwright.jobs.spec import JobError
from shardwright.models.gpt2.entry import PRESETS, flops, parameters

JOB = {
    "model": {"name": "gpt2", "preset": "small"},
    "data": {"sequence_length": 512},
    "train": {"steps": 100, "global_batch": 64, "micro_batch": 2},
    "parallel": {"zero": 3, "shard": 4},
    "resources": {"workers": 4, "device": "cpu"},
}
OWN = """
import torch
from shardwright import Entry

entry = Entry(build=lambda: torch.nn.Linear(3, 2), loss=lambda network, batch: (network(batch["x"]).sum(), 1))
data = [{"x": [0.0, 1.0, 2.0]}] * 64
"""


def made(*overrides: str, memory: int | None = None) -> LaunchPlan:
    return plan(JOB, *overrides, memory=memory)


def test_what_a_job_is_planned_to_be() -> None:
    found = made()
    assert found.parameters == parameters(PRESETS["small"])
    assert (found.layout.world_size, found.micro_batches, found.steps) == (4, 8, 100)
    assert found.flops == 3 * 64 * flops(PRESETS["small"], 512)
    assert found.checkpoint == 3 * 4 * found.parameters
    assert found.mesh == "pipeline 1 x replicate 1 x shard 4 x context 1 x tensor 1, zero 3"


@pytest.mark.parametrize(
    ("length", "steps"), [("train.steps=7", 7), ("train.tokens=1000000", 31), ("train.epochs=2", None)]
)
def test_steps(length: str, steps: int | None) -> None:
    found = made(length)
    assert found.steps == steps
    assert ("data prepare" in str(found)) == (steps is None)


@pytest.mark.parametrize("parallel", [(), ("parallel.zero=1",), ("parallel.shard=2", "parallel.pipeline=2")])
def test_every_table_of_memory_adds_up_as_it_is_printed(parallel: tuple[str, ...]) -> None:
    lines = str(made(*parallel)).splitlines()
    sums, total = 0, 0.0
    for line in lines:
        if re.search(r"[KMG]iB$", line):
            total = 0.0
        elif cell := re.fullmatch(r"\s+(?:\S+ )+\s+(\d+\.\d\d)(  .*)?", line):
            if line.split()[0] == "sum":
                assert total == pytest.approx(float(cell[1]), abs=0.05)
                sums += 1
            else:
                total += float(cell[1])
    assert sums == (2 if "parallel.pipeline=2" in parallel else 3)


def test_the_peak_of_gpt2_small_is_told_term_by_term() -> None:
    """On 4 ranks under ZeRO-3: the formula, the gathered embedding and blocks, whole gradients, buffers."""
    memory = made().memory
    terms = {term.name: term.bytes for term in memory.peak}
    whole = 4 * parameters(PRESETS["small"])
    for name, share in (("parameters", 0.25), ("optimizer states", 0.5), ("gradient shards", 0.25)):
        assert terms[name] == pytest.approx(share * whole, rel=0.001)
    assert memory.peak_bytes == sum(terms.values())
    assert {"gathered parameters", "whole gradients"} < terms.keys() or memory.where == "loss"


def test_json_holds_every_rank_and_every_term() -> None:
    tree = json.loads(made("parallel.shard=2", "parallel.tensor=2").to_json())
    assert [place["rank"] for place in tree["places"]] == [0, 1, 2, 3]
    assert tree["places"][3] == {
        "rank": 3,
        "pipeline": 0,
        "replicate": 0,
        "shard": 1,
        "context": 0,
        "tensor": 1,
    }
    assert tree["memory"]["peak_bytes"] == sum(term["bytes"] for term in tree["memory"]["peak"])
    assert (tree["workers"], tree["micro_batches"], tree["parameters"]) == (4, 16, made().parameters)


def test_an_automatic_micro_batch_fits_the_memory_that_is_given() -> None:
    tight = made("train.micro_batch=auto", memory=2 * 2**30)
    roomy = made("train.micro_batch=auto", memory=64 * 2**30)
    assert tight.micro_batch < roomy.micro_batch == 16
    assert tight.memory.peak_bytes <= 2 * 2**30
    assert "settled by a probe step" in str(tight)


def test_a_job_that_does_not_fit_is_said_not_to() -> None:
    assert "does not fit" in str(made(memory=2**30))
    assert "does not fit" not in str(made(memory=2**36))


def test_a_gpu_that_is_not_here_can_be_planned_for() -> None:
    found = made("resources.device=cuda")
    assert (found.device, found.available) == ("cuda", None)
    assert "not known here" in str(found)


def test_a_large_mesh_is_shown_in_part() -> None:
    lines = str(made("resources.workers=64", "parallel.shard=64", "train.micro_batch=1")).splitlines()
    ranks = [line.split()[0] for line in lines if re.fullmatch(r"\s+(\d+|\.\.\.)\s+(\d+|\.\.\.)", line)]
    assert ranks == ["0", "1", "2", "3", "4", "5", "...", "63"]


def test_a_wrong_job_is_refused() -> None:
    with pytest.raises(JobError, match=r"tensor=5 does not divide heads=12 \(legal: 1, 2, 3, 4, 6, 12\)"):
        made("parallel.tensor=5", "parallel.shard=1", "resources.workers=5")


def test_an_entry_of_ones_own_is_counted_on_the_meta_device(tmp_path: Path) -> None:
    (tmp_path / "own_planned.py").write_text(OWN)
    job = tmp_path / "job.toml"
    job.write_text(
        'model.name = "own_planned:entry"\ndata.name = "own_planned:data"\ntrain = { steps = 3, global_batch = 8 }\n'
    )
    found = plan(job)
    assert (found.parameters, found.counted, found.flops) == (8, "on the meta device", None)
    assert "the entry has no flops" in str(found)
    assert "lacks activations" in str(found)


@pytest.mark.parametrize("words", [["plan", "gpt"], ["plan", "gpt", "--json"], ["run", "gpt", "--dry-run"]])
def test_planning_the_catalog_loads_no_torch(words: list[str], tmp_path: Path) -> None:
    code = (
        "import sys; from shardwright.cli import main; status = main(sys.argv[1:]); "
        "print('LOADED', 'torch' in sys.modules, status)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *words], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.splitlines()[-1] == "LOADED False 0", done.stderr
    assert not any(tmp_path.iterdir())


def test_amounts() -> None:
    assert [amount(n, "FLOP") for n in (5, 999, 1000, 1.234e13)] == ["5 FLOP", "999 FLOP", "1.00 kFLOP", "12.34 TFLOP"]
    assert amount(1_230_000) == "1.23 M"


def test_a_stage_with_several_parts_names_their_units() -> None:
    lines = str(made("parallel.shard=2", "parallel.pipeline=2", "parallel.schedule=zbv")).splitlines()
    held = [line.split(" holds ") for line in map(str.strip, lines) if " holds " in line]
    assert [where for where, _ in held] == [
        f"stage {s}, part {part} of 2," for s, part in ((0, 1), (1, 1), (1, 2), (0, 2))
    ]
    assert held[0][1].startswith("embed") and held[-1][1].endswith("head")
