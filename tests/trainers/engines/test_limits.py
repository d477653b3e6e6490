"""What an engine cannot do is one sentence, before any process starts."""

from dataclasses import replace

import pytest
from shardwright.models.entry import Entry, Phase, Stream, Unit
from shardwright.trainers.engines import limits
from shardwright.trainers.engines.limits import dtype_refusal, refusal
from shardwright.trainers.layout import Layout, parse_strategy

PLAIN = Entry(name="plain", build="here:build", units=lambda _: (Unit("a", 1), Unit("b", 1)))


@pytest.fixture(autouse=True)
def all_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "find_spec", lambda name: name)


@pytest.mark.parametrize(
    "strategy",
    [
        "ddp",
        "zero3_tensor2",
        "deepspeed_zero1",
        "deepspeed_zero2",
        "deepspeed_zero3_offload",
        "deepspeed_pipeline2",
        "fairscale_oss",
        "fairscale_pipeline2",
        "horovod",
    ],
)
def test_what_an_engine_can_do(strategy: str) -> None:
    assert refusal(PLAIN, parse_strategy(strategy)) == ""


@pytest.mark.parametrize(
    ("strategy", "reason"),
    [
        ("horovod_tensor2", "tensor=2 is not offered by engine=horovod, which gives replicas"),
        ("deepspeed_zero1_tensor2", "tensor=2 is not offered by engine=deepspeed, which gives ZeRO"),
        ("fairscale_oss_context2", "context=2 is not offered by engine=fairscale"),
        ("deepspeed_zero2_expert2", "expert=2 is not offered by engine=deepspeed"),
        ("deepspeed_pipeline2_interleaved", "schedule=interleaved is not offered by engine=deepspeed"),
        ("deepspeed_ddp", "replicas alone (zero=0) are those of engine=torch"),
        ("deepspeed_zero1_pipeline2", "zero=1 beside pipeline=2 is not offered"),
        ("deepspeed_zero1_ddp", "replicate=2 beside zero is not offered"),
        ("fairscale_zero3", "FairScale's FSDP, whose streams exist on CUDA devices only"),
        ("fairscale_zero2", "engine=fairscale gives OSS with ShardedDDP (zero = 1 over shard) and Pipe, but zero=2"),
        ("fairscale_ddp", "engine=fairscale gives OSS with ShardedDDP"),
        ("fairscale_oss_pipeline2", "which lives in one process"),
        ("horovod_zero1", "engine=horovod gives replicas (replicate) and nothing else"),
        ("horovod_pipeline2", "engine=horovod gives replicas (replicate) and nothing else"),
    ],
)
def test_what_it_cannot(strategy: str, reason: str) -> None:
    sentence = refusal(PLAIN, parse_strategy(strategy))
    assert reason in sentence and "\n" not in sentence


@pytest.mark.parametrize(
    ("strategy", "entry", "reason"),
    [
        (
            "deepspeed_zero1",
            replace(PLAIN, phases=(Phase("one", ("*",)),)),
            "trains parts of its model in turn (phases)",
        ),
        ("fairscale_oss", replace(PLAIN, solver="here:Rule"), "is trained by a solver of its own"),
        ("deepspeed_zero3", replace(PLAIN, units=None), "plain names no units whose hooks would run"),
        ("deepspeed_zero3", replace(PLAIN, follows=lambda _: ()), "parameters of plain follow others"),
        ("deepspeed_pipeline2", replace(PLAIN, streams=lambda _: {"h": Stream((1,))}), "(streams)"),
        ("fairscale_pipeline2", replace(PLAIN, streams=lambda _: {"h": Stream((1,))}), "(streams)"),
    ],
)
def test_what_it_cannot_do_for_an_entry(strategy: str, entry: Entry, reason: str) -> None:
    assert reason in refusal(entry, parse_strategy(strategy))


def test_an_engine_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "find_spec", lambda _: None)
    assert refusal(PLAIN, parse_strategy("horovod")) == (
        "engine=horovod needs Horovod, which is not installed: call `make engines`, "
        "or install the extra shardwright[horovod]"
    )
    assert refusal(PLAIN, parse_strategy("zero3")) == ""


def test_dtypes() -> None:
    assert (
        dtype_refusal("torch", "fp16") == dtype_refusal("horovod", "bf16") == dtype_refusal("deepspeed", "fp32") == ""
    )
    assert dtype_refusal("deepspeed", "bf16") == (
        "dtype=bf16 is not offered by engine=deepspeed, only fp32; use engine=torch"
    )


def test_all_stages_of_fairscale_are_in_one_process() -> None:
    assert Layout(pipeline=3, engine="fairscale").world_size == 1
    assert Layout(pipeline=3, engine="deepspeed").world_size == 3
