"""Is a model that does not say what comes next trained like any other, and not asked to continue a text?"""

from pathlib import Path

import pytest
import shardwright as sw
from shardwright.cli import main
from shardwright.jobs.events import read


def test_a_masked_model_trains_as_a_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["model.name=bert", "data.sequence_length=16", "train.steps=2", "train.global_batch=4", "eval.batches=1"]
    run = sw.run({}, *words, "run.name=masked")
    status = run.wait()
    assert status.state == "finished", status.report
    events = read(run.run.events, {0})
    (told,) = [event for event in events if event.kind == "eval"]
    assert set(told.fields["terms"]) == {"mlm", "nsp"} and told.fields["loss"] == pytest.approx(
        sum(told.fields["terms"].values())
    )
    assert told.fields["bits_per_byte"] is None, "it does not predict each byte"
    assert not [event for event in events if event.kind == "sample"]
    assert main(["generate", run.run.name, "--prompt", "def"]) != 0
    assert "bert is no model of the next token, so it cannot continue a text" in capsys.readouterr().err
