"""Does an impossible job stop with one message, and leave nothing behind?"""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from shardwright.jobs.check import check_job, check_place
from shardwright.jobs.load import JobError, Loaded, load_job
from shardwright.trainers.layout import Layout

OWN = """
from shardwright.models.entry import Entry
WHOLE = Entry(build=lambda: None, coupled="batch")
UNCUT = Entry(build=lambda: None, name="uncut", refusals={"pipeline": "its layers run in a circle"})
IMAGES = Entry(build=lambda: None, dataset="digits")
PLAYER = Entry(build=lambda: None, data="experience")
SOLVED = Entry(build=lambda: None, dataset="digits", name="solved", solver="own_entries:solve")
NOTHING = 3
"""


JOB = """
[train]
steps = 10
global_batch = 32
[data]
sequence_length = 128
[parallel]
zero = 1
shard = 2
pipeline = 2
[resources]
workers = 4
"""


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current folder, empty, with a module of the user's own beside it."""
    own = tmp_path / "own"
    own.mkdir()
    (own / "own_entries.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(own))
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    monkeypatch.setenv("XDG_CONFIG_HOME", os.devnull)
    yield work
    sys.modules.pop("own_entries", None)


def job(*overrides: str) -> Loaded:
    """A small job, changed."""
    (Path.cwd().parent / "gpt.toml").write_text(JOB)
    return load_job(Path("../gpt.toml"), overrides)


def test_the_shipped_example_fits() -> None:
    check_job(load_job("gpt"))
    check_place(load_job("gpt"))


def test_what_fits_gets_its_layout() -> None:
    checked = check_job(job("parallel.shard=auto", "resources.workers=8"))
    assert checked.layout == Layout(zero=1, pipeline=2, shard=4)
    assert checked.entry.name == "gpt2" and checked.config.heads == 4
    check_place(job())


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            "parallel.tensor=3",
            "job 'gpt': tensor=3 does not divide heads=4 (legal: 1, 2, 4) (parallel.tensor: command line)",
        ),
        ("parallel.tensor=auto resources.workers=12", "job 'gpt': tensor=3 does not divide heads=4 (legal: 1, 2, 4)"),
        ("parallel.pipeline=7", "job 'gpt': pipeline=7 is more than the 6 units of gpt2 (legal: 1 to 6)"),
        (
            "parallel.pipeline=4 parallel.shard=1 parallel.zero=0 parallel.schedule=zbv",
            "job 'gpt': schedule=zbv cuts the model into pipeline x 2 = 8 parts, but gpt2 has 6 units "
            "(parallel.schedule: command line)",
        ),
        (
            "resources.workers=3",
            "job 'gpt': pipeline 2 x replicate 1 x shard 2 x context 1 x tensor 1 = 4, but workers=3; make",
        ),
        ("resources.workers=3", "shard: ../gpt.toml:9, parallel.zero: ../gpt.toml:8, resources.workers: command line)"),
        (
            "parallel.shard=auto parallel.replicate=auto",
            "job 'gpt': only one degree may be \"auto\", got replicate and shard",
        ),
        ("parallel.shard=auto resources.workers=5", "the other degrees multiply to 2, which does not divide workers=5"),
        ("parallel.zero=0", "job 'gpt': shard=2 needs zero = 1, 2 or 3"),
        (
            "train.global_batch=31",
            "train.global_batch = 31 does not divide over 2 data ranks (replicate 1 x shard 2); nearest: 30",
        ),
        ("train.global_batch=1", "nearest: 2 (train.global_batch: command line)"),
        (
            "train.micro_batch=3",
            "train.micro_batch = 3 does not divide the 16 samples of a data rank (legal: 1, 2, 4, 8, 16)",
        ),
        ("model.name=gtp2", "job 'gpt': there is no model 'gtp2' (did you mean 'gpt2'? known: "),
        ("model.name=nowhere:ENTRY", "there is no module 'nowhere' on the import path (model.name: command line)"),
        ("model.name=own_entries:NOTHING", "'own_entries:NOTHING' is a int, expected a shardwright.Entry"),
        ("model.preset=tin", "gpt2 has no preset 'tin' (did you mean 'tiny'?"),
        ("model.config.hedas=2", "gpt2 has no size 'hedas' (did you mean 'heads'?"),
        ("model.config.heads=3", "job 'gpt': heads=3 does not divide width=128"),
        ("model.config.heads=many", "model.config.heads: command line)"),
        ("data.sequence_length=256", "data.sequence_length = 256 is more than the model's context=128"),
        (
            "parallel.pipeline=1 parallel.context=2 data.sequence_length=30",
            "job 'gpt': context=2 cuts a sample into 4 chunks, which do not divide its 30 tokens (parallel.context: ",
        ),
        (
            "parallel.pipeline=1 parallel.tensor=2 parallel.sequence=true data.sequence_length=31",
            "sequence splits the 31 tokens of a rank, which tensor=2 does not divide (parallel.sequence: command line",
        ),
        ("data.tokenizer=bpe", 'data.tokenizer = "bpe" has 4096 tokens, but the model has vocab_size=256; set'),
        (
            "model.name=own_entries:SOLVED model.preset= data.name=digits parallel.pipeline=1 parallel.shard=4 "
            "train.dtype=fp16",
            'train.dtype = "fp16" cannot be: solved moves by a solver of its own (own_entries:solve), which has no',
        ),
        (
            "model.name=own_entries:UNCUT model.preset= data.name=digits parallel.pipeline=1 parallel.shard=4 "
            "train.compile=true",
            "train.compile = true cannot be: uncut names no units to compile",
        ),
        (
            "model.name=wgan_gp model.preset= data.name=digits parallel.pipeline=1 parallel.shard=4 "
            "train.recompute=selective",
            'train.recompute = "selective" cannot be: the gradient penalty goes back through the critic twice',
        ),
        (
            "model.name=maml model.preset= data.name=digits_few_shot parallel.pipeline=1 parallel.shard=4 "
            "train.activations=int8",
            'train.activations = "int8" cannot be: the adapted weights are made of what the classifier keeps',
        ),
        ("train.dtype=fp16 optimizer.name=lbfgs", "lbfgs compares gradients of several evaluations"),
        ('optimizer.groups."embed.*".lr=-1', "lr = -1, expected a factor of the learning rate"),
        ('optimizer.groups."bmbed.*".lr=1', "optimizer.groups.'bmbed.*' fits no parameter; the first of 68 are embed"),
        ('optimizer.groups."*".frozen=true', "freeze every parameter; nothing is left to train"),
        ("train.trace=5:3", 'train.trace = "5:3" is not first:last with 1 <= first <= last'),
        (
            "model.name=own_entries:WHOLE model.preset= parallel.pipeline=1 parallel.shard=4",
            "reads samples; name a package.module:object",
        ),
    ],
)
def test_an_impossible_job_is_one_message(overrides: str, message: str) -> None:
    with pytest.raises(JobError) as caught:
        check_job(job(*overrides.split()))
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_a_bpe_vocabulary_that_fits_and_gpipe_with_one_micro_batch_pass() -> None:
    check_job(job("data.tokenizer=bpe", "model.config.vocab_size=4096"))
    check_job(job("train.micro_batch=16", "parallel.schedule=gpipe"))


def test_a_tokenizer_file_is_read_where_it_is(here: Path) -> None:
    (here / "words.json").write_text('{"model": {"vocab": {"a": 0, "b": 300}}}')
    with pytest.raises(JobError, match=r'data.tokenizer = "words.json" has 301 tokens'):
        check_job(job("data.tokenizer=words.json"))
    check_job(job("data.tokenizer=elsewhere.json"))


def small(model: str, **data: str) -> Loaded:
    return load_job({"model": {"name": f"own_entries:{model}"}, "data": data, "train": {"steps": 1, "global_batch": 4}})


def test_a_job_reads_what_its_entry_learns_on_unless_it_says_otherwise() -> None:
    learned = small("IMAGES")
    assert (learned.spec.data.name, learned.origins["data.name"]) == ("digits", "model")
    check_job(learned)
    check_place(learned)
    assert small("IMAGES", name="iris").spec.data.name == "iris"
    assert small("WHOLE").origins["data.name"] == "default"
    check_job(small("PLAYER"))
    for refused, message in (
        (
            small("IMAGES", name="stdlib"),
            'gives tokens, but own_entries:IMAGES reads samples; say data.name = "digits"',
        ),
        (
            small("PLAYER", name="iris"),
            'data.name = "iris" is not read: own_entries:PLAYER makes its samples by acting',
        ),
        (job("data.name=digits"), 'gives samples, but gpt2 reads tokens; say data.name = "stdlib"'),
    ):
        with pytest.raises(JobError) as caught:
            check_job(refused)
        assert message in str(caught.value)


def test_an_entry_of_ones_own_says_why() -> None:
    own = {"data": {"name": "own_entries:NOTHING"}, "train": {"steps": 1, "global_batch": 4}}

    def refused(name: str, **sections: dict[str, object]) -> str:
        tree = {**own, **sections, "model": {"name": f"own_entries:{name}"}}
        tree["train"] = {**own["train"], **sections.get("train", {})}
        with pytest.raises(JobError) as caught:
            check_job(load_job(tree))
        return str(caught.value)

    two = {"workers": 2}
    assert "its layers run in a circle" in refused("UNCUT", parallel={"pipeline": 2}, resources=two)
    assert "tensor=2" in refused("WHOLE", parallel={"tensor": 2}, resources=two)
    assert 'so there is one micro-batch (legal: 2, "auto")' in refused(
        "WHOLE", parallel={"replicate": 2}, resources=two, train={"micro_batch": 1}
    )
    check_job(load_job({**own, "model": {"name": "own_entries:WHOLE"}, "parallel": {"replicate": 2}, "resources": two}))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            "data.name=text",
            "job 'gpt': data.name = 'text' needs data.path: a file, a folder or a glob (data.name: command",
        ),
        ("data.name=text data.path=/nowhere", "data.path = '/nowhere': there is no such file or folder"),
        ("data.name=text data.path=*.txt", "data.path = '*.txt': the glob matches no file"),
        (
            "data.name=nowhere:SAMPLES",
            "data.name = \"nowhere:SAMPLES\" names no module: 'nowhere' is not on the import path",
        ),
        ("data.name=nowhere.deep:SAMPLES", "'nowhere.deep' is not on the import path"),
        ("data.tokenizer=none.json", "data.tokenizer = 'none.json' is neither"),
        ("run.folder=/proc/runs", "job 'gpt': run.folder = \"/proc/runs\" cannot be written: /proc: "),
        ("run.folder=file/runs", 'run.folder = "file/runs" cannot be written: '),
    ],
)
def test_what_is_missing_on_this_machine_is_one_message(here: Path, overrides: str, message: str) -> None:
    (here / "file").touch()
    with pytest.raises(JobError) as caught:
        check_place(job(*overrides.split()))
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_a_look_leaves_nothing_behind(here: Path) -> None:
    check_place(job("run.folder=deep/er/runs", "data.name=own_entries:NOTHING"))
    assert list(here.iterdir()) == []
    assert "own_entries" not in sys.modules  # a data set is imported where it is read, and only there
