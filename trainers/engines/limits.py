"""What can an engine not do? One sentence, known before any process starts; no torch, and no engine is imported."""

from collections.abc import Iterator
from importlib.util import find_spec

from ...models.entry import Entry
from ..layout import Layout

TITLES = {"deepspeed": "DeepSpeed", "fairscale": "FairScale", "horovod": "Horovod"}
GIVES = {
    "deepspeed": "ZeRO (zero = 1, 2 or 3 over shard) and pipelines",
    "fairscale": "OSS with ShardedDDP (zero = 1 over shard) and Pipe",
    "horovod": "replicas (replicate)",
}
DTYPES = {"deepspeed": ("fp32",), "fairscale": ("fp32",), "horovod": ("fp32", "bf16")}


def refusal(entry: Entry, layout: Layout) -> str:
    """Why an entry cannot be trained so by the layout's engine; "" where it can."""
    engine = layout.engine
    if engine == "torch":
        return ""
    reasons = [
        *_missing(engine),
        *_of_axes(layout),
        *_of_entry(entry, engine),
        *{"deepspeed": _of_deepspeed, "fairscale": _of_fairscale, "horovod": _of_horovod}[engine](entry, layout),
    ]
    return reasons[0] if reasons else ""


def dtype_refusal(engine: str, dtype: str) -> str:
    """Why an engine cannot compute in a dtype of TrainOptions; "" where it can."""
    legal = DTYPES.get(engine, (dtype,))
    if dtype in legal:
        return ""
    return f"dtype={dtype} is not offered by engine={engine}, only {' and '.join(legal)}; use engine=torch"


def _missing(engine: str) -> Iterator[str]:
    if find_spec(engine) is None:
        yield (
            f"engine={engine} needs {TITLES[engine]}, which is not installed: "
            f"call `make engines`, or install the extra shardwright[{engine}]"
        )


def _of_axes(layout: Layout) -> Iterator[str]:
    for axis in ("context", "tensor", "expert"):
        if (degree := getattr(layout, axis)) > 1:
            yield f"{axis}={degree} is not offered by engine={layout.engine}, which gives {GIVES[layout.engine]}"
    if layout.pipeline > 1 and layout.schedule != "1f1b":
        yield f"schedule={layout.schedule} is not offered by engine={layout.engine}, which has an order of its own"


def _of_entry(entry: Entry, engine: str) -> Iterator[str]:
    if entry.solver:
        name = entry.name or "this entry"
        yield f"{name} is trained by a solver of its own, and engine={engine} brings torch's optimizers only"


def _of_deepspeed(entry: Entry, layout: Layout) -> Iterator[str]:
    name = entry.name or "this entry"
    if layout.pipeline > 1 and layout.zero:
        yield f"zero={layout.zero} beside pipeline={layout.pipeline} is not offered by engine=deepspeed; set zero = 0"
    if layout.pipeline == 1 and layout.zero == 0:
        yield f"engine=deepspeed gives {GIVES['deepspeed']}; replicas alone (zero=0) are those of engine=torch"
    if layout.zero and layout.replicate > 1:
        yield f"replicate={layout.replicate} beside zero is not offered by engine=deepspeed; give its workers to shard"
    if entry.phases:
        yield f"{name} trains parts of its model in turn (phases), and DeepSpeed always updates the whole"
    if layout.zero == 3 and entry.units is None:
        yield f"DeepSpeed gathers a module's parameters by its hooks, and {name} names no units whose hooks would run"
    if layout.zero == 3 and entry.follows:
        yield f"parameters of {name} follow others element by element, and DeepSpeed keeps both in pieces of its own"
    if layout.pipeline > 1 and entry.streams:
        yield f"{name} carries state from step to step (streams), which engine=deepspeed does not pass along a pipeline"


def _of_fairscale(entry: Entry, layout: Layout) -> Iterator[str]:
    if layout.zero == 3:
        yield "zero=3 would be FairScale's FSDP, whose streams exist on CUDA devices only; use engine=torch"
    if layout.pipeline > 1 and (layout.zero or layout.data > 1):
        yield f"pipeline={layout.pipeline} is FairScale's Pipe, which lives in one process: no other axis goes with it"
    if layout.pipeline == 1 and (layout.zero != 1 or layout.replicate > 1):
        yield f"engine=fairscale gives {GIVES['fairscale']}, but zero={layout.zero} and replicate={layout.replicate}"
    if layout.pipeline > 1 and entry.streams:
        name = entry.name or "this entry"
        yield f"{name} carries state from step to step (streams), which FairScale's Pipe does not return"


def _of_horovod(entry: Entry, layout: Layout) -> Iterator[str]:
    if layout.zero or layout.pipeline > 1:
        given = f"zero={layout.zero}, pipeline={layout.pipeline}"
        yield f"engine=horovod gives {GIVES['horovod']} and nothing else, but {given}"
