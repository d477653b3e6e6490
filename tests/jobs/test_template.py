"""Does the commented job file load, say everything and change nothing?"""

import os
import re
from dataclasses import replace
from pathlib import Path

from shardwright.jobs.fields import keys, section_types
from shardwright.jobs.load import load_job
from shardwright.jobs.spec import JobSpec, RunOptions
from shardwright.jobs.template import job_template
from shardwright.trainers.options import TrainOptions

ENVIRON = {"XDG_CONFIG_HOME": os.devnull}
EXPECTED = replace(JobSpec(), train=TrainOptions(steps=100), run=RunOptions(name="first"))


def test_it_loads_to_the_defaults(tmp_path: Path) -> None:
    path = tmp_path / "first.toml"
    path.write_text(job_template())
    assert load_job(path, environ=ENVIRON).spec == EXPECTED


def test_every_commented_line_is_the_default_too(tmp_path: Path) -> None:
    path = tmp_path / "first.toml"
    text = re.sub(r"^#(?=\S)", "", job_template(), flags=re.M)
    assert text != job_template()
    path.write_text(text)
    job = load_job(path, environ=ENVIRON)
    assert job.spec == EXPECTED
    unset = {key for key, origin in job.origins.items() if origin == "default"}
    assert unset == {"run.name", "train.tokens", "train.epochs"}


def test_every_key_is_there_with_its_help() -> None:
    text = job_template()
    for name, options in section_types().items():
        section = text.partition(f"\n[{name}]\n")[2].partition("\n# --- ")[0]
        assert section
        for key in keys(name, options).values():
            assert key.name in section and key.help in section
