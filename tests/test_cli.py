"""Does each verb say what it found, refuse in one sentence, and leave nothing behind when it refuses?"""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator
from shardwright.cli import main, read
from shardwright.jobs.load import load_job
from shardwright.jobs.run_folder import RunFolder, create
from shardwright.jobs.show import to_toml


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, empty, without site file or profile."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delenv("SHARDWRIGHT_SITE", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", os.devnull)
    return tmp_path


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The one sentence of a verb that refuses."""
    assert main(words) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.count("\n") == 1
    return said.err.strip()


def said(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """What a verb prints."""
    assert main(words) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    return printed.out


def make_run(name: str = "gpt", *overrides: str) -> RunFolder:
    """A run's folder in which nothing happened."""
    job = load_job("gpt", overrides)
    return create(Path("runs"), name, to_toml(job.spec, job.origins))


VERBS = [
    *(["init"], ["config"], ["models"], ["plan"], ["render"], ["run"], ["status"], ["logs"], ["report"], ["compare"]),
    *(["stop"], ["resume"], ["rm"], ["generate"], ["data", "prepare"], ["data", "show"], ["verify", "model"]),
]


@pytest.mark.parametrize("verb", VERBS, ids=" ".join)
def test_each_verb_explains_itself_with_examples(verb: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main([*verb, "--help"])
    text = capsys.readouterr().out
    assert left.value.code == 0
    assert f"usage: shardwright {' '.join(verb)}" in text and f"\n  shardwright {' '.join(verb)}" in text
    for line in text.partition("examples:\n")[2].splitlines():
        read(shlex.split(line.partition(" > ")[0])[1:])


def test_help_lists_each_verb_with_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    text = capsys.readouterr().out
    rows = {line.split()[0]: line.split()[1:] for line in text.splitlines() if line[:4] == "    " and line[4] != " "}
    assert set(rows) - {"VERB"} == {verb[0] for verb in VERBS}
    assert all(rows[verb[0]] for verb in VERBS)


@pytest.mark.parametrize(
    "words", [[], ["rnu"], ["data"], ["run"], ["run", "gpt", "--dry"], ["logs", "last", "extra"]], ids=" ".join
)
def test_words_of_no_form_leave_with_two(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(words)
    assert left.value.code == 2
    assert "usage: shardwright" in capsys.readouterr().err


def test_values_may_stand_on_both_sides_of_an_option() -> None:
    asked = read(["run", "gpt", "train.steps=1", "--dry-run", "train.clip=2", "optimizer.lr=3"])
    assert asked.dry_run and asked.overrides == ["train.steps=1", "train.clip=2", "optimizer.lr=3"]
    assert read(["plan", "--json", "gpt", "a=-1"]).overrides == ["a=-1"]


def test_init_writes_a_job_that_loads_and_never_overwrites(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = said(capsys, "init")
    assert "job.toml" in said(capsys, "init", "job.toml")
    assert (here / "job.toml").read_text() == text
    assert load_job("job.toml").spec.train.steps == 100
    (here / "job.toml").write_text("mine")
    assert refused(capsys, "init", "job.toml") == (
        "shardwright: job.toml exists; name another file, or remove it first"
    )
    assert (here / "job.toml").read_text() == "mine"
    assert "no/job.toml cannot be written" in refused(capsys, "init", "no/job.toml")


def test_config_prints_toml_json_and_the_schema(capsys: pytest.CaptureFixture[str]) -> None:
    text = said(capsys, "config", "gpt", "train.steps=5")
    assert tomllib.loads(text)["train"]["steps"] == 5 and "# command line" in text and "# gpt.toml:" in text
    table = json.loads(said(capsys, "config", "gpt", "--json", "train.steps=5"))
    assert table["train.steps"] == {"value": 5, "origin": "command line"}
    schema = json.loads(said(capsys, "config", "--schema"))
    Draft202012Validator.check_schema(schema)
    with pytest.raises(SystemExit):
        main(["config"])


def test_models_lists_the_catalog(capsys: pytest.CaptureFixture[str]) -> None:
    text = said(capsys, "models")
    assert "tensor 1,2,4  pipeline 1-6  context any  expert -" in text  # gpt2 tiny
    assert max(map(len, text.splitlines())) < 150
    entries = {entry["name"]: entry for entry in json.loads(said(capsys, "models", "--json"))}
    assert len(entries) >= 23 and all(entry["paper"] for entry in entries.values())
    assert entries["gpt2"]["presets"]["small"]["parameters"] == 124_439_808
    assert "gpt2 has no experts" in entries["gpt2"]["presets"]["small"]["expert"]


@pytest.mark.parametrize("verb", ["config", "plan", "render", "run", "run --dry-run"])
@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.stepz=1", "shardwright: command line: train.stepz is not a key; did you mean train.steps?"),
        ("parallel.tensor=3", "shardwright: job 'gpt': tensor=3 does not divide heads=4 (legal: 1, 2, 4)"),
        ("resources.workers=3", "but workers=3"),
    ],
)
def test_a_wrong_job_is_one_sentence_and_makes_nothing(
    here: Path, verb: str, override: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in refused(capsys, *verb.split(), "gpt", override)
    assert list(here.iterdir()) == []


@pytest.mark.parametrize("override", ["data.name=text", "run.folder=/proc/runs"])
def test_a_job_that_cannot_run_here_makes_nothing(
    here: Path, override: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert override.partition("=")[0] in refused(capsys, "run", "gpt", override)
    assert "no job file 'gtp'; did you mean gpt?" in refused(capsys, "run", "gtp")
    assert list(here.iterdir()) == []


def test_an_unknown_launcher_names_those_that_are_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert "local" in refused(capsys, "render", "gpt", "--on", "slrm")


def test_render_prints_the_commands(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = said(capsys, "render", "gpt")
    assert "shardwright.cluster.local" in text and "runs/gpt-N" in text
    assert list(here.iterdir()) == []


def test_a_dry_run_is_plan_and_render(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = said(capsys, "run", "gpt", "--dry-run")
    parts = said(capsys, "plan", "gpt"), said(capsys, "render", "gpt")
    for part in parts:  # but for the memory that is free at the moment
        assert {line for line in part.splitlines() if "available" not in line} <= set(whole.splitlines())
    assert json.loads(said(capsys, "plan", "gpt", "--json"))["parameters"] == 842_496
    assert list(here.iterdir()) == []


def test_data_show_prints_what_the_model_sees(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "text").mkdir()
    (here / "text/a.txt").write_text("to be or not to be. " * 200)
    data = ("data.name=text", "data.path=text", "data.cache=cache", "data.held_out=0.0")
    (sample,) = json.loads(said(capsys, "data", "show", "gpt", *data, "-n", "1", "--json"))
    assert len(sample["ids"]) == 129 and "to be or not to be" in sample["texts"][0]
    assert "to be or not to be" in said(capsys, "data", "show", "gpt", *data)
    assert "4,001 tokens to train on and 0 held out" in said(capsys, "data", "prepare", "gpt", *data)
    assert "job 'gpt': " in refused(capsys, "data", "prepare", "gpt", "data.name=jsonl", "data.path=text/a.txt")


def test_runs_are_found_reported_and_removed(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = make_run(), make_run()
    assert str(first.path / "report.html") in said(capsys, "report", "gpt-1")
    assert json.loads(said(capsys, "report", "gpt-1", "--json"))["state"] == "new"
    assert "<html" in (first.path / "report.html").read_text()
    assert "did you mean gpt-1?" in refused(capsys, "rm", "gpt-2", "gtp-1")
    assert second.path.exists()
    with second.lock():
        assert "is live" in refused(capsys, "rm", "last")
    assert "gpt-1" in said(capsys, "rm", "gpt-1", "gpt-2")
    assert list((here / "runs").iterdir()) == []
    assert "there is no run in runs" in refused(capsys, "stop", "last")


def test_status_and_compare_list_runs(capsys: pytest.CaptureFixture[str]) -> None:
    assert said(capsys, "status") == "no runs\n"
    make_run()
    make_run("gpt", "train.steps=7")
    assert [line.split()[:2] for line in said(capsys, "status").splitlines()[1:]] == [
        ["gpt-1", "new"],
        ["gpt-2", "new"],
    ]
    assert [row["run"] for row in json.loads(said(capsys, "status", "--json"))] == ["gpt-1", "gpt-2"]
    assert json.loads(said(capsys, "status", "last", "--json"))["state"] == "new"
    assert "gpt-2: new at step 0" in said(capsys, "status", "last")
    assert json.loads(said(capsys, "compare", "gpt-1", "last", "--json"))["config"]["train.steps"][1] == 7
    assert "train.steps" in said(capsys, "compare", "gpt-1", "gpt-2")
    assert "has no log of rank 3" in refused(capsys, "logs", "last", "--rank", "3")


def test_generate_needs_a_checkpoint(capsys: pytest.CaptureFixture[str]) -> None:
    make_run()
    assert "has no checkpoint yet" in refused(capsys, "generate", "last", "--prompt", "a")


def test_verify_refuses_a_strategy_that_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    assert "'zreo' is not one of ddp" in refused(capsys, "verify", "model", "gpt2", "--strategies", "zreo", "--json")
    assert "there is no model 'gtp2'" in refused(capsys, "verify", "model", "gtp2", "--json")


OWN = """
import torch
from shardwright import Entry

def loss(network, batch):
    return (network(batch["0"])[:, 0] - batch["1"]).square().sum(), torch.tensor(len(batch["1"]))

ENTRY = Entry(build=lambda: torch.nn.Linear(4, 1), loss=loss)
SAMPLES = [(torch.full((4,), i / 64), float(i % 3)) for i in range(64)]
"""


def test_verify_proves_a_model_of_ones_own(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "own_model.py").write_text(OWN)
    words = ("verify", "model", "own_model:ENTRY", "--data", "own_model:SAMPLES", "--json", "--strategies")
    found = json.loads(said(capsys, *words, "ddp"))
    (ddp,) = found["strategies"]
    assert found["model"] == "own_model:ENTRY"
    assert (ddp["name"], ddp["world_size"], ddp["ok"]) == ("ddp", 2, True) and ddp["loss_diff"] <= 1e-5
    assert "tensor=2" in refused(capsys, *words, "tensor2")


def test_ctrl_c_is_130_and_a_closed_pipe_is_quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("shardwright.models.catalog.listing", interrupted)
    assert main(["models"]) == 130
    command = f"{sys.executable} -m shardwright config --schema | head -n 1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert done.stderr == "" and done.stdout.startswith("{\n")


def test_python_m_is_the_same_command(here: Path) -> None:
    done = subprocess.run([sys.executable, "-m", "shardwright", "run", "gtp"], capture_output=True, text=True, cwd=here)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "shardwright: there is no job file 'gtp'; did you mean gpt? (shipped examples: gpt)\n"


def shardwright(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """A verb in a process of its own."""
    command = [sys.executable, "-m", "shardwright", *words]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=120)


@contextmanager
def ending(process: subprocess.Popen[str]) -> Iterator[None]:
    """Ends the run of a process, whatever happens to the test."""
    try:
        yield
    finally:
        if process.poll() is None:
            process.terminate()


@pytest.mark.slow
def test_a_run_is_stopped_resumed_and_asked(here: Path) -> None:
    (here / "a.txt").write_text("to be or not to be. " * 500)
    small = ("data.name=text", "data.path=a.txt", "data.cache=cache", "data.sequence_length=16", "data.held_out=0")
    words = ("run", "gpt", *small, "resources.workers=2", "parallel.pipeline=1", "train.global_batch=4")
    run = [sys.executable, "-m", "shardwright", *words, "train.steps=100_000"]
    process = subprocess.Popen(run, cwd=here, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    with process, ending(process):
        assert process.stdout
        seen = next((line for line in process.stdout if re.search(r"  step [1-9]", line)), "no step")
        process.send_signal(signal.SIGINT)
        seen += process.communicate(timeout=60)[0]
    assert process.returncode == 130, seen
    assert "gpt-1: stopped at step" in seen and "shardwright resume" in seen
    (row,) = json.loads(shardwright("status", "--json", cwd=here).stdout)
    more = shardwright("resume", "last", f"train.steps={row['step'] + 3}", cwd=here)
    assert more.returncode == 0, more.stdout + more.stderr
    assert f"finished at step {row['step'] + 3}" in more.stdout and (here / "runs/gpt-1/report.html").is_file()
    text = shardwright("generate", "last", "--prompt", "to be", "--tokens", "5", cwd=here)
    assert text.returncode == 0 and text.stdout.startswith("to be"), text.stderr
