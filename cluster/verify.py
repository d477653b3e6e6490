"""Is a strategy's result that of one process? The figures beside the bounds, or the sentence why there are none.

Strategies of one world size share a group of ranks and, for the same number of data ranks, the reference.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..models.catalog import configure, find
from ..models.entry import Entry
from ..trainers.engines.limits import dtype_refusal
from ..trainers.layout import Layout, parse_strategy
from ..trainers.legal import refusal
from ..trainers.options import OptimizerOptions
from .call import RankFailure
from .code import on_path
from .pool import Pool

STRATEGIES = (
    *("ddp", "zero1", "zero2", "zero3", "hsdp2x2", "zero3_offload"),
    *("tensor2", "tensor2_sequence", "pipeline2", "pipeline2_interleaved", "pipeline2_zbv"),
    *("context2_gather", "context2_ulysses", "expert2", "zero3x2_tensor2_pipeline2"),
)
ENGINES = ("deepspeed_zero1", "deepspeed_zero2", "deepspeed_zero3", "fairscale_oss", "horovod")
TOLERANCE = 1e-5  # in fp32: of the loss, of gradients relative to the largest one, and of the weights
LOSS_TOLERANCE = {"fp32": TOLERANCE, "bf16": 2e-3}  # in bf16 the other differences are reported, and not judged
NOT_FINITE = "a loss, a gradient or a weight is not finite, or is missing on one side"
DEADLINE = 120.0  # seconds of one strategy


@dataclass(frozen=True)
class Verdict:
    """One strategy's differences from one process; null where it did not run."""

    name: str
    world_size: int
    loss_diff: float | None  # largest over the steps
    grad_diff: float | None  # largest, relative to the model's largest gradient
    weight_diff: float | None  # largest after the steps of SGD with momentum
    update_diff: float | None  # largest after one update of the job's own optimizer from identical gradients
    ok: bool
    reason: str = ""  # why it did not run
    refused: bool = False  # the model cannot be laid out so, and `reason` is the sentence; never ok


@dataclass(frozen=True)
class Verification:
    """What `verify model` found."""

    model: str
    strategies: tuple[Verdict, ...]
    dtype: str = "fp32"

    @property
    def ok(self) -> bool:
        """Whether every strategy that the model can be laid out for gave the result of one process."""
        return all(verdict.ok or verdict.refused for verdict in self.strategies)

    def to_json(self) -> str:
        """{"model", "dtype", "strategies": [{"name", "world_size", "loss_diff", "grad_diff", "ok", ...}]}."""
        cells = [asdict(verdict) for verdict in self.strategies]
        return json.dumps({"model": self.model, "dtype": self.dtype, "strategies": cells}, indent=1)

    def __str__(self) -> str:
        return "\n".join([f"{self.model}: {bounds(self.dtype)}", HEADER, *self.rows()])

    def rows(self) -> list[str]:
        """One line a strategy."""
        return [row(verdict) for verdict in self.strategies]


def bounds(dtype: str) -> str:
    """What is judged, in words."""
    if dtype == "fp32":
        return f"differences from one process, at most {TOLERANCE:g} each"
    bound = f"at most {LOSS_TOLERANCE[dtype]:g} of the loss"
    return f"differences of {dtype} from one process in fp32, {bound}; the others are reported"


HEADER = f"{'strategy':28} {'ranks':>5} {'loss':>9} {'gradient':>9} {'weight':>9} {'update':>9}"


def row(verdict: Verdict) -> str:
    """One line of the table."""
    figures = (verdict.loss_diff, verdict.grad_diff, verdict.weight_diff, verdict.update_diff)
    columns = " ".join(f"{'-' if value is None else format(value, '.1e'):>9}" for value in figures)
    mark = "ok" if verdict.ok else f"{'refused:' if verdict.refused else 'FAILED'} {verdict.reason}"
    return f"{verdict.name:28} {verdict.world_size:5} {columns}  {mark.strip()}"


def verify(
    model: str,
    strategies: Iterable[str] | None = None,
    *,
    preset: str = "",
    config: Mapping[str, Any] | None = None,
    data: str = "",
    optimizer: OptimizerOptions | None = None,
    dtype: str = "fp32",
    paths: tuple[str, ...] = (),
    found: Callable[[Verdict], None] = lambda verdict: None,
) -> Verification:
    """Compare strategies of a model with one process, on this machine.

    Args:
        model, preset, config: as in [model] of a job file.
        strategies: names such as ddp, zero1, zero3x4, tensor2, pipeline2, zero3x2_tensor2_pipeline2; None: those of
            STRATEGIES that the entry can be laid out for.
        data: a data.name, where it is not the entry's own.
        optimizer: the job's own; AdamW with the defaults.
        dtype: of the strategies' forward and backward; the reference is one process in fp32.
        paths: where the user's modules are found.
        found: called with each verdict as it comes.

    Raises:
        ValueError: a strategy's name, the model or its sizes are wrong, or the model cannot be split so.
    """
    with on_path([Path(path) for path in paths]):
        entry = find(model)
        sizes = configure(entry, preset, config or {})
        asked = possible(entry, sizes) if strategies is None else strategies
        layouts = {name: checked(entry, sizes, name, dtype) for name in asked}
    payload = payload_of(model, preset, config or {}, data, optimizer or OptimizerOptions(), dtype)
    with Pool(["shardwright.jobs.verify"], paths=paths) as pool:
        return Verification(model, tuple(judge_all(pool, layouts, payload, found)), dtype)


def payload_of(
    model: str, preset: str, config: Mapping[str, Any], data: str, optimizer: OptimizerOptions, dtype: str = "fp32"
) -> dict[str, Any]:
    """What the ranks are told, but for the strategies."""
    return {
        "model": model,
        "preset": preset,
        "config": dict(config),
        "data": data,
        "optimizer": asdict(optimizer),
        "dtype": dtype,
    }


def possible(entry: Entry, config: Any) -> list[str]:
    """The usual strategies, without those that the entry refuses."""
    return [name for name in STRATEGIES if not refusal(entry, config, parse_strategy(name))]


def checked(entry: Entry, config: Any, strategy: str, dtype: str = "fp32") -> Layout:
    """The layout that a strategy names, if the entry can be laid out so.

    Raises:
        ValueError: it cannot, or its engine does not compute in that dtype.
    """
    layout = parse_strategy(strategy)
    if reason := refusal(entry, config, layout) or dtype_refusal(layout.engine, dtype):
        raise ValueError(reason)
    return layout


def judge_all(
    pool: Pool, layouts: Mapping[str, Layout], payload: Mapping[str, Any], found: Callable[[Verdict], None]
) -> list[Verdict]:
    """A verdict for each strategy, in the order given; `found` hears of them world size by world size."""
    verdicts: dict[str, Verdict] = {}
    for size, names in _together(layouts).items():
        for verdict in judge(pool, names, size[0], payload):
            verdicts[verdict.name] = verdict
            found(verdict)
    return [verdicts[name] for name in layouts]


def _together(layouts: Mapping[str, Layout]) -> dict[tuple[int, str], list[str]]:
    """Strategies that can share a group of ranks: of one world size and one engine, whose state is its process's."""
    groups: dict[tuple[int, str], list[str]] = {}
    for name, layout in layouts.items():
        groups.setdefault((layout.world_size, layout.engine), []).append(name)
    return groups


def judge(pool: Pool, strategies: Sequence[str], world_size: int, payload: Mapping[str, Any]) -> list[Verdict]:
    """Run strategies of one world size; a failure of their ranks is a verdict too, of the one that failed."""
    task, deadline = "shardwright.jobs.verify:verify_each", DEADLINE * len(strategies)
    try:
        found = pool.run(task, world_size, {**payload, "strategies": list(strategies)}, deadline)[0]
    except RankFailure as error:
        if len(strategies) > 1:
            return [verdict for name in strategies for verdict in judge(pool, [name], world_size, payload)]
        return [Verdict(strategies[0], world_size, None, None, None, None, ok=False, reason=str(error))]
    return [verdict_of(name, world_size, found[name], payload["dtype"]) for name in strategies]


def verdict_of(strategy: str, world_size: int, differences: Mapping[str, float | None], dtype: str = "fp32") -> Verdict:
    """Differences held against the bounds; what is not finite travels as null."""
    loss, gradient, weight, update = (differences[name] for name in ("loss", "gradient", "weight", "update"))
    figures = (loss, gradient, weight, update)
    judged = figures if dtype == "fp32" else (loss,)
    close = all(value is not None and value <= LOSS_TOLERANCE[dtype] for value in judged)
    ok = close and None not in figures
    return Verdict(strategy, world_size, loss, gradient, weight, update, ok, NOT_FINITE if None in figures else "")


def refused(strategy: str, reason: str) -> Verdict:
    """The verdict on a strategy that the model cannot be laid out for."""
    return Verdict(strategy, parse_strategy(strategy).world_size, None, None, None, None, False, reason, refused=True)
