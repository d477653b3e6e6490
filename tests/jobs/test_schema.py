"""Does an editor's schema agree with the loader?"""

import os
import tomllib
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator, ValidationError
from shardwright.jobs.fields import keys, section_types
from shardwright.jobs.layers import examples
from shardwright.jobs.load import JobError, load_job, to_toml
from shardwright.jobs.schema import job_schema
from shardwright.jobs.template import job_template


@pytest.fixture(scope="module")
def schema() -> Draft202012Validator:
    """The schema, checked against the schema of schemas."""
    Draft202012Validator.check_schema(job_schema())
    return Draft202012Validator(job_schema())


@pytest.mark.parametrize("path", examples().values(), ids=examples())
def test_a_shipped_example_is_valid(schema: Draft202012Validator, path: Path) -> None:
    schema.validate(tomllib.loads(path.read_text()))


def test_the_template_and_every_value_written_out_are_valid(schema: Draft202012Validator) -> None:
    schema.validate(tomllib.loads(job_template()))
    schema.validate(tomllib.loads(to_toml(load_job("gpt", ["model.config.heads=2", "train.trace='3:5'"]).spec)))
    schema.validate({"extends": ["base.toml"], "train": {"epochs": 0.5}})


@pytest.mark.parametrize(
    "tree",
    [
        {"trian": {}},
        {"steps": 3},
        {"train": 3},
        {"train": {"stepz": 3}},
        {"train": {"steps": 0}},
        {"train": {"steps": "3"}},
        {"train": {"steps": True}},
        {"train": {"steps": 3, "tokens": 3}},
        {"train": {"epochs": 0}},
        {"train": {"micro_batch": "all"}},
        {"train": {"micro_batch": 0}},
        {"train": {"dtype": "fp8"}},
        {"train": {"trace": "first"}},
        {"optimizer": {"betas": [0.9]}},
        {"optimizer": {"betas": [0.9, 0.9, 0.9]}},
        {"optimizer": {"betas": [0.9, 1.0]}},
        {"parallel": {"zero": 4}},
        {"data": {"name": "json"}},
        {"data": {"held_out": 0.6}},
        {"model": {"config": 3}},
        {"extends": "base.toml"},
    ],
    ids=str,
)
def test_what_the_loader_refuses_the_schema_refuses(schema: Draft202012Validator, tree: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        schema.validate(tree)
    with pytest.raises(JobError):
        load_job({"train": {"steps": 1}, **tree}, environ={"XDG_CONFIG_HOME": os.devnull})


def test_every_key_has_help_and_the_default_the_loader_uses(schema: Draft202012Validator) -> None:
    for name, options in section_types().items():
        section = job_schema()["properties"][name]
        assert section["description"] and list(section["properties"]) == list(keys(name, options))
        assert all(key["description"] for key in section["properties"].values())
        defaults = {key: told["default"] for key, told in section["properties"].items() if "default" in told}
        assert options(**defaults) == options()
