"""Does a job come out as its layers say, each value with its origin, and does a mistake stop with one message?"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from shardwright.jobs.fields import keys, section_types
from shardwright.jobs.layers import Stated, command_line, examples
from shardwright.jobs.load import JobError, Loaded, load_job, load_resolved, to_toml
from shardwright.jobs.show import literal
from shardwright.jobs.spec import JobSpec
from shardwright.trainers.options import TrainOptions, option

STEPS = {"train": {"steps": 3}}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, empty, without site file or profile."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SHARDWRIGHT_SITE", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return tmp_path


def write(path: Path, text: str) -> Path:
    """A file with its folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def refused(source: Any, *overrides: str, **more: Any) -> str:
    """The message of a job that does not load."""
    with pytest.raises(JobError) as caught:
        load_job(source, overrides, **more)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_layers_speak_in_order_and_each_value_has_its_origin(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = write(
        home / "etc/site.toml", "[run]\nseed = 1\nfolder = 'site'\n[optimizer]\nlr = 1.0\neps = 1.0\nmomentum = 0.1\n"
    )
    monkeypatch.setenv("SHARDWRIGHT_SITE", str(site))
    profile = write(home / "config/shardwright/profile.toml", "[optimizer]\nlr = 2.0\neps = 2.0\nmomentum = 0.2\n")
    write(home / "shared/deep.toml", "[optimizer]\nlr = 3.0\neps = 3.0\n[schedule]\nwarmup = 3\n")
    write(home / "shared/base.toml", "extends = ['deep.toml']\n[optimizer]\nlr = 4.0\nweight_decay = 0.4\n")
    write(home / "job.toml", "extends = ['shared/base.toml']\n\n[optimizer]\nlr = 5.0 # mine\n[train]\nsteps = 9\n")
    job = load_job("job.toml", ["optimizer.lr=6", "train.clip=0"])
    assert job.spec.optimizer.lr == 6.0 and job.origins["optimizer.lr"] == "command line"
    assert job.spec.train.steps == 9 and job.origins["train.steps"] == "job.toml:6"
    assert job.spec.optimizer.weight_decay == 0.4 and job.origins["optimizer.weight_decay"] == "shared/base.toml:4"
    assert job.spec.optimizer.eps == 3.0 and job.origins["optimizer.eps"] == "shared/deep.toml:3"
    assert job.spec.schedule.warmup == 3 and job.origins["schedule.warmup"] == "shared/deep.toml:5"
    assert job.spec.optimizer.momentum == 0.2 and job.origins["optimizer.momentum"] == f"profile {profile}:4"
    assert job.spec.run.seed == 1 and job.origins["run.seed"] == f"site {site}:2"
    assert job.spec.optimizer.betas == (0.9, 0.95) and job.origins["optimizer.betas"] == "default"
    assert load_job("job.toml").origins["optimizer.lr"] == "job.toml:4"


def test_every_key_has_an_origin(home: Path) -> None:
    origins = load_job(STEPS).origins
    assert set(origins) == {key.dotted for name, type in section_types().items() for key in keys(name, type).values()}
    assert {key for key, origin in origins.items() if origin != "default"} == {"train.steps"}


def test_a_site_file_that_is_named_must_be_there(home: Path) -> None:
    assert "'/nowhere.toml' names no file" in refused(STEPS, environ={"SHARDWRIGHT_SITE": "/nowhere.toml"})


def test_a_bare_name_is_a_file_here_before_it_is_an_example(home: Path) -> None:
    assert "gpt" in examples()
    assert load_job("gpt").spec.model.name == "gpt2" and load_job("gpt").name == "gpt"
    write(home / "gpt.toml", "[train]\nsteps = 7\n")
    assert load_job("gpt").spec.train.steps == 7
    write(home / "gpt", "[train]\nsteps = 8\n")
    assert load_job("gpt").spec.train.steps == 8
    assert load_job(home / "gpt.toml").origins["train.steps"] == f"{home / 'gpt.toml'}:2"


def test_a_missing_job_names_the_nearest(home: Path) -> None:
    write(home / "llama.toml", "")
    assert "did you mean llama.toml?" in refused("lama.toml")
    assert "did you mean gpt?" in refused("gtp") and "examples: gpt" in refused("gtp")


def test_a_mapping_is_the_same_tree(home: Path) -> None:
    write(home / "base.toml", "[optimizer]\nlr = 0.5\n")
    tree = {"extends": ["base.toml"], "train": {"epochs": 2, "steps": None}, "model": {"config": {"a": {"b": (1, 2)}}}}
    job = load_job(tree)
    assert (job.spec.optimizer.lr, job.spec.train.epochs, job.spec.train.steps) == (0.5, 2.0, None)
    assert job.spec.model.config == {"a": {"b": [1, 2]}} and job.name == "job"
    assert job.origins["optimizer.lr"] == "base.toml:2" and job.origins["model.config.a.b"] == "argument"
    assert "argument: model.config.a" in refused({**STEPS, "model": {"config": {"a": print}}})


def test_circles_and_missing_bases_are_refused(home: Path) -> None:
    write(home / "a.toml", "\nextends = ['x/b.toml']\n")
    write(home / "x/b.toml", "extends = ['../a.toml']\n")
    assert refused("a.toml") == "x/b.toml:1: extends goes in a circle: a.toml -> x/b.toml -> x/../a.toml"
    write(home / "c.toml", "\nextends = ['none.toml']\n")
    assert refused("c.toml").startswith("c.toml:2: extends = ['none.toml']: there is no such file")
    write(home / "d.toml", "extends = 'c.toml'\n")
    assert "expected a list of files" in refused("d.toml")
    write(home / "twice.toml", "extends = ['e.toml', 'f.toml']\n[train]\nsteps = 1\n")
    write(home / "e.toml", "extends = ['g.toml']\n")
    write(home / "f.toml", "extends = ['g.toml']\n")
    write(home / "g.toml", "[run]\nseed = 5\n")
    assert load_job("twice.toml").spec.run.seed == 5


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("\n[train]\nstepz = 1", "job.toml:3: train.stepz is not a key; did you mean train.steps? (legal in"),
        ("[train]\nlr = 1", "job.toml:2: train.lr is not a key; did you mean optimizer.lr?"),
        ("[trian]\nsteps = 1", "job.toml:2: [trian] is not a section; did you mean [train]?"),
        ("[trian]", "job.toml:1: [trian] is not a section; did you mean [train]?"),
        ("steps = 1", "job.toml:1: [steps] is not a section; did you mean train.steps?"),
        ("train = 5", "job.toml:1: train = 5: train is a section, [train]"),
        ("[train]\nsteps = 1.5", "job.toml:2: train.steps = 1.5: expected a whole number, at least 1"),
        ("[train]\nsteps = 1e3", "job.toml:2: train.steps = 1000.0: expected a whole number, at least 1 (write 1_000)"),
        ("[train]\nsteps = true", "job.toml:2: train.steps = true: expected a whole number, at least 1"),
        ("[train]\nsteps = {a = 1}", "job.toml:2: train.steps is a table: expected a whole number, at least 1"),
        ("train.steps = '3'", 'job.toml:1: train.steps = "3": expected a whole number, at least 1'),
        ("[train]\nepochs = 0", "job.toml:2: train.epochs = 0: expected a number, more than 0.0"),
        ("[optimizer]\nlr = nan", "job.toml:2: optimizer.lr = nan: expected a number, at least 0.0"),
        ("[optimizer]\nlr = inf", "job.toml:2: optimizer.lr = inf: expected a number, at least 0.0"),
        ("[optimizer]\nbetas = [0.9]", "job.toml:2: optimizer.betas = [0.9]: expected a list of 2 numbers"),
        ("[optimizer]\nbetas = [0.9, 1]", "job.toml:2: optimizer.betas = [0.9, 1]: expected a list of 2 numbers"),
        ("[data]\nheld_out = 0.6", "job.toml:2: data.held_out = 0.6: expected a number, at least 0.0 and at most 0.5"),
        (
            "[train]\ndtype = 'fp3'",
            'job.toml:2: train.dtype = "fp3": expected one of "fp32", "bf16", "fp16"; did you mean fp3',
        ),
        ("[train]\nmicro_batch = 'all'", 'job.toml:2: train.micro_batch = "all": expected a whole number or "auto", '),
        ("[train]\nmicro_batch = 0", 'job.toml:2: train.micro_batch = 0: expected a whole number or "auto", at'),
        ("[parallel]\nzero = 4", "job.toml:2: parallel.zero = 4: expected one of 0, 1, 2, 3"),
        ("[data]\nname = 'jsn'", 'job.toml:2: data.name = "jsn": expected one of "stdlib", '),
        ("[run]\nname = 3", 'job.toml:2: run.name = 3: expected text (write "3", with the quotes)'),
        ("[track]\ntensorboard = 1", "job.toml:2: track.tensorboard = 1: expected true or false"),
        ("[train]\nsteps = 1\ntokens = 1", "job.toml:2: train.steps and job.toml:3: train.tokens are given together;"),
        ("", "job 'job': exactly one of train.steps, train.tokens, train.epochs is needed, and none is given"),
        ("[train\n", "job.toml: not valid TOML: Expected ']' at the end of a table declaration (at line 1, column 7)"),
    ],
)
def test_a_mistake_is_one_message_with_its_place(home: Path, text: str, message: str) -> None:
    write(home / "job.toml", text)
    assert refused("job.toml").startswith(message)


def test_a_mistake_is_seen_where_a_later_layer_hides_it(home: Path) -> None:
    write(home / "job.toml", "[train]\nsteps = 'many'\n")
    assert refused("job.toml", "train.steps=1").startswith("job.toml:2: ")


def test_a_whole_number_that_no_float_holds_is_refused(home: Path) -> None:
    assert "expected a number, at least 0.0" in refused(STEPS, f"optimizer.lr={10**400}")


def test_text_that_is_not_text(home: Path) -> None:
    (home / "job.toml").write_bytes(b"\xff\xfe")
    assert "cannot be read" in refused("job.toml")


def test_a_later_length_takes_the_place_of_an_earlier_one(home: Path) -> None:
    job = load_job("gpt", ["train.tokens=10"])
    assert (job.spec.train.steps, job.spec.train.tokens) == (None, 10)
    assert job.origins["train.steps"] == "default"
    assert "command line: train.steps" in refused("gpt", "train.tokens=10", "train.steps=10")


def test_a_later_table_takes_the_place_of_a_value_and_the_other_way_round(home: Path) -> None:
    write(home / "job.toml", "[train]\nsteps = 1\n[model.config]\na = 1\nb = {c = 2, d = 3}\n")
    assert load_job("job.toml", ["model.config.b.c=5"]).spec.model.config == {"a": 1, "b": {"c": 5, "d": 3}}
    assert load_job("job.toml", ["model.config.a.x=5"]).spec.model.config["a"] == {"x": 5}
    assert load_job("job.toml", ["model.config.b=5"]).spec.model.config == {"a": 1, "b": 5}
    assert load_job("job.toml", ["model.config={}"]).spec.model.config == {}
    write(home / "next.toml", "extends = ['job.toml']\nmodel.config.b = 5\n")
    assert load_job("next.toml", ["model.config.b.c=7"]).spec.model.config == {"a": 1, "b": {"c": 7}}


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("k.v=1", 1),
        ("k.v = 1_000", 1000),
        ("k.v=-1.5e3", -1500.0),
        ("k.v=true", True),
        ("k.v=True", "True"),
        ("k.v=fp32", "fp32"),
        ("k.v='a b'", "a b"),
        ("k.v=a=b", "a=b"),
        ("k.v=", ""),
        ("k.v=/d/*.txt", "/d/*.txt"),
        ("k.v=10:15", "10:15"),
        ("k.v=10:15:00", "10:15:00"),
        ("k.v=2024-01-01", "2024-01-01"),
        ("k.v=[1, 2]", [1, 2]),
        ("k.v=pkg.mod:obj", "pkg.mod:obj"),
        ("k.v=1\nx = 2", "1\nx = 2"),
        ("k.'v'=#", "#"),
        ("k.v=1 # x", 1),
    ],
)
def test_an_override_is_toml_or_a_bare_word(word: str, value: Any) -> None:
    assert command_line([word]) == {("k", "v"): Stated(value, "command line")}


@pytest.mark.parametrize("word", ["foo", "a b=1", "=1", "a..b=1", "k.v=[1", 'k.v="x', "k.v={a", "[t]\na=1"])
def test_an_override_of_no_form_is_refused(word: str) -> None:
    with pytest.raises(JobError, match=r"^command line: "):
        command_line([word])


SCALARS = st.one_of(st.integers(), st.booleans(), st.floats(allow_nan=False), st.text(), st.lists(st.integers()))


@given(SCALARS)
def test_an_override_reads_what_toml_writes(value: Any) -> None:
    assert command_line([f"a.b={literal(value)}"]) == {("a", "b"): Stated(value, "command line")}


@given(st.text("abc/*:._-", min_size=1))
def test_a_bare_word_stands_for_itself(word: str) -> None:
    (stated,) = command_line([f"a={word}"]).values()
    assert stated.value == word or literal(stated.value) == word or isinstance(stated.value, int | float)


@dataclass(frozen=True)
class Queue:
    """[queue]: a launcher's own section."""

    partition: str = option("main", "where to wait")


def test_a_launcher_brings_its_section(home: Path) -> None:
    job = load_job({**STEPS, "queue": {"partition": "gpu"}}, ["queue.partition=big"], launchers={"queue": Queue})
    assert job.spec.launchers == {"queue": Queue("big")} and job.origins["queue.partition"] == "command line"
    assert "[queue] is not a section" in refused({**STEPS, "queue": {"partition": "gpu"}})
    text = to_toml(job.spec, job.origins)
    assert load_resolved(write(home / "spec.toml", text), launchers={"queue": Queue}) == job


def reloaded(folder: Path, job: Loaded) -> Loaded:
    """A job written with its origins and read again."""
    return load_resolved(write(folder / "spec.toml", to_toml(job.spec, job.origins)))


def test_a_resolved_job_keeps_values_and_origins_and_hears_no_profile(home: Path) -> None:
    job = load_job("gpt", ["train.epochs=0.5", "model.config.heads=8", "run.name='a # b'"])
    write(home / "config/shardwright/profile.toml", "[optimizer]\nmomentum = 0.5\n[train]\nsteps = 1\n")
    assert reloaded(home, job) == job
    changed = load_resolved(home / "spec.toml", ["train.steps=5"])
    assert changed.spec.train == replace(job.spec.train, steps=5, epochs=None)
    assert changed.origins["train.steps"] == "command line" and changed.origins["data.name"].startswith("gpt.toml:")


def hints(section: str, type: type) -> Mapping[str, Any]:
    """A strategy for each key of a section, from its type and limits."""

    def floats(key: Any) -> Any:
        low = key.limits.get("minimum", key.limits.get("above"))
        high = key.limits.get("maximum", key.limits.get("below"))
        ends = {"exclude_min": "above" in key.limits, "exclude_max": "below" in key.limits}
        return st.floats(low, high, allow_nan=False, allow_infinity=False, **ends)

    def one(key: Any) -> Any:
        if "choices" in key.limits:
            return st.sampled_from(key.limits["choices"])
        form = key.forms[0]
        if key.open:
            return st.dictionaries(
                st.text(max_size=3), st.one_of(SCALARS, st.dictionaries(st.text(max_size=2), SCALARS))
            )
        if form is int:
            return st.integers(key.limits["minimum"])
        if form is float:
            return floats(key)
        if form in (bool, str):
            return st.booleans() if form is bool else st.text()
        return st.tuples(floats(key), floats(key))

    return {key.name: one(key) for key in keys(section, type).values()}


@st.composite
def specs(draw: Any) -> JobSpec:
    """Any legal job."""
    sections = {name: draw(st.builds(type, **hints(name, type))) for name, type in section_types().items()}
    train: TrainOptions = sections["train"]
    kept = draw(st.sampled_from(["steps", "tokens", "epochs"]))
    sections["train"] = replace(train, **{name: None for name in ("steps", "tokens", "epochs") if name != kept})
    sections["run"] = replace(sections["run"], name=draw(st.text(min_size=1)))
    return JobSpec(**sections)


@given(specs(), st.sampled_from(["command line", "a b.toml:3", 'site "x" # y:9']))
def test_any_job_survives_toml(tmp_path_factory: pytest.TempPathFactory, spec: JobSpec, origin: str) -> None:
    folder = tmp_path_factory.mktemp("spec")
    environ = {"XDG_CONFIG_HOME": os.devnull}
    path = write(folder / "job.toml", to_toml(spec))
    assert load_job(path, environ=environ).spec == spec
    origins = dict.fromkeys(load_job(path, environ=environ).origins, origin)
    job = reloaded(folder, Loaded(spec, origins))
    assert job.spec == spec
    unset = {f"train.{each.name}" for each in fields(TrainOptions) if getattr(spec.train, each.name) is None}
    assert job.origins == {**origins, **dict.fromkeys(unset, "default")}
