"""Can this job run? What the loader cannot know: the model's sizes, the mesh, the portions, and this machine.

check_job needs only the job and its entry (torch stays out for an entry of the catalog); check_place looks at this
machine and leaves nothing behind. Every refusal is one JobError.
"""

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ..models.catalog import configure, find, refusal
from ..models.entry import Entry
from ..trainers.data.samples.shipped import SHIPPED
from ..trainers.data.sources import check_source, is_packed
from ..trainers.engines.limits import dtype_refusal
from ..trainers.groups import check_patterns, check_trained, group_of, read_groups
from ..trainers.layout import AXES, HOW, Layout, resolve
from ..trainers.legal import refusal as layout_refusal
from ..trainers.portions import divisors
from ..trainers.refusals import compile_refusal, fp16_refusal, saving_refusal
from .load import Loaded
from .show import flat_values, literal
from .spec import JobError

BUILT_IN = ("bytes", "bpe")  # tokenizers that need no file


@dataclass(frozen=True)
class Checked:
    """A job's model and mesh, fit for each other."""

    entry: Entry
    config: Any
    layout: Layout


def check_job(job: Loaded) -> Checked:
    """The entry, its sizes and the layout of a job.

    Raises:
        JobError: no such model or size, an impossible mesh, portions that do not divide, text that does not fit.
    """
    entry, config = check_model(job)
    layout = check_mesh(job, entry, config)
    check_portions(job, entry, layout)
    check_text(job, entry, config)
    check_tokens(job, entry, layout)
    check_trace(job)
    check_numbers(job, entry)
    check_groups(job, entry, config)
    return Checked(entry, config, layout)


def check_place(job: Loaded) -> None:
    """Whether the data is here and the run folder can be written; nothing is created.

    Raises:
        JobError: it is not.
    """
    check_data(job)
    check_folder(job)


@contextmanager
def blaming(job: Loaded, *keys: str) -> Iterator[None]:
    """Turn a ValueError of a lower floor into the job's, with the keys it came from."""
    try:
        yield
    except (ValueError, ImportError) as error:
        raise JobError(f"job {job.name!r}: {error}{places(job, keys)}") from error


def refuse(job: Loaded, key: str, reason: str) -> JobError:
    """The error that says what is wrong with one value."""
    value = dict(flat_values(job.spec)).get(key)
    return JobError(f"job {job.name!r}: {key} = {literal(value)} {reason}{places(job, (key,))}")


def places(job: Loaded, keys: tuple[str, ...]) -> str:
    """Where the values of some keys were stated, as the end of a message; defaults have no place."""
    said = {key: job.origins[key] for key in keys if job.origins.get(key, "default") != "default"}
    return f" ({', '.join(f'{key}: {origin}' for key, origin in said.items())})" if said else ""


def check_model(job: Loaded) -> tuple[Entry, Any]:
    """The entry and its sizes."""
    model = job.spec.model
    with blaming(job, "model.name"):
        entry = find(model.name)
    sizes = [key for key in job.origins if key.startswith("model.config.")]
    with blaming(job, "model.preset", *sizes):
        return entry, configure(entry, model.preset, model.config)


def check_mesh(job: Loaded, entry: Entry, config: Any) -> Layout:
    """The layout, if the entry can be split that way."""
    options = job.spec.parallel
    check_splits(job, entry, config, {axis: getattr(options, axis) for axis in AXES})
    axes = [f"parallel.{axis}" for axis in AXES if getattr(options, axis) != 1]
    with blaming(job, *axes, "parallel.zero", "resources.workers"):
        layout = resolve(options, job.spec.resources.workers)
    check_splits(job, entry, config, layout.degrees | {"pipeline": layout.pipeline})
    if why := layout_refusal(entry, config, layout):
        raise JobError(
            f"job {job.name!r}: {why}{places(job, ('parallel.expert', *(f'parallel.{how}' for how in HOW)))}"
        )
    if why := dtype_refusal(layout.engine, job.spec.train.dtype):
        raise JobError(f"job {job.name!r}: {why}{places(job, ('parallel.engine', 'train.dtype'))}")
    return layout


def check_splits(job: Loaded, entry: Entry, config: Any, degrees: Mapping[str, int | str]) -> None:
    """Refuse a degree that the entry cannot have; one that is still "auto" is passed over."""
    for axis, degree in degrees.items():
        if isinstance(degree, int) and (why := refusal(entry, config, axis, degree)):
            raise JobError(f"job {job.name!r}: {why}{places(job, (f'parallel.{axis}',))}")


def check_portions(job: Loaded, entry: Entry, layout: Layout) -> None:
    """Global batch over data ranks over micro-batches over stages."""
    train = job.spec.train
    share, rest = divmod(train.global_batch, layout.data)
    if rest or not share:
        ranks = f"{layout.data} data ranks (replicate {layout.replicate} x shard {layout.shard})"
        near = " or ".join(str(each * layout.data) for each in (share, share + 1) if each)
        raise refuse(job, "train.global_batch", f"does not divide over {ranks}; nearest: {near}")
    micro = 1 if train.micro_batch == "auto" else train.micro_batch
    if share % micro:
        options = ", ".join(map(str, divisors(share)))
        raise refuse(job, "train.micro_batch", f"does not divide the {share} samples of a data rank (legal: {options})")
    if entry.coupled == "batch":
        check_coupled(job, entry, layout, share)


def check_coupled(job: Loaded, entry: Entry, layout: Layout, share: int) -> None:
    """An objective over the whole batch takes it in one piece."""
    reason = f"cannot be: the objective of {entry.name} couples the samples of a batch"
    if layout.pipeline > 1:
        raise refuse(job, "parallel.pipeline", f"{reason}, so it takes no pipeline (legal: 1)")
    if job.spec.train.micro_batch not in ("auto", share):
        raise refuse(job, "train.micro_batch", f'{reason}, so there is one micro-batch (legal: {share}, "auto")')


def check_text(job: Loaded, entry: Entry, config: Any) -> None:
    """Whether the entry reads what [data] gives, as far as the sizes tell."""
    data = job.spec.data
    if entry.data == "experience":
        return check_unread(job, entry)
    if entry.data == "tokens" and data.name in SHIPPED:
        raise refuse(job, "data.name", f'gives samples, but {entry.name} reads tokens; say data.name = "stdlib"')
    if not is_packed(data):
        return None
    if entry.data != "tokens":
        known = f'say data.name = "{entry.dataset}"' if entry.dataset else "name a package.module:object"
        raise refuse(job, "data.name", f"gives tokens, but {entry.name} reads samples; {known}")
    context = getattr(config, "context", data.sequence_length)
    if data.sequence_length > context:
        raise refuse(job, "data.sequence_length", f"is more than the model's context={context}")
    held, ids = getattr(config, "vocab_size", None), known_ids(job)
    if held is not None and ids is not None and ids > held:
        reason = f"has {ids} tokens, but the model has vocab_size={held}; set model.config.vocab_size={ids}"
        raise refuse(job, "data.tokenizer", reason)
    return None


def check_tokens(job: Loaded, entry: Entry, layout: Layout) -> None:
    """Whether a sample's tokens can be cut for the context axis and for sequence parallel."""
    if entry.data == "tokens" and (why := layout.refusal(job.spec.data.sequence_length)):
        keys = ("parallel.context", "parallel.sequence", "parallel.tensor", "data.sequence_length")
        raise JobError(f"job {job.name!r}: {why}{places(job, keys)}")


def check_unread(job: Loaded, entry: Entry) -> None:
    """No data set is named for an entry that makes its own samples."""
    if job.origins["data.name"] != "default":
        raise refuse(job, "data.name", f"is not read: {entry.name} makes its samples by acting; leave it out")


def known_ids(job: Loaded) -> int | None:
    """How many ids the tokenizer has; None where only the data, or a file that is not on this machine, could tell."""
    from ..trainers.data.tokenizer import vocabulary  # numpy, which a look at a job's mesh does not need

    data = job.spec.data
    if data.tokenizer not in BUILT_IN and not Path(data.tokenizer).expanduser().is_file():
        return None
    with blaming(job, "data.tokenizer"):
        return vocabulary(data)


def check_trace(job: Loaded) -> None:
    """first:last, in that order."""
    first, colon, last = job.spec.train.trace.partition(":")
    if colon and not 0 < int(first) <= int(last):
        raise refuse(job, "train.trace", "is not first:last with 1 <= first <= last")


def check_numbers(job: Loaded, entry: Entry) -> None:
    """What the entry cannot be trained with."""
    if job.spec.train.dtype == "fp16" and (reason := fp16_refusal(entry, job.spec.optimizer.name)):
        raise refuse(job, "train.dtype", f"cannot be: {reason}")
    if job.spec.train.compile and (reason := compile_refusal(entry)):
        raise refuse(job, "train.compile", f"cannot be: {reason}")
    for key in ("recompute", "activations"):
        if reason := saving_refusal(entry, getattr(job.spec.train, key)):
            raise refuse(job, f"train.{key}", f"cannot be: {reason}")


def check_groups(job: Loaded, entry: Entry, config: Any) -> None:
    """The groups of [optimizer.groups]; that each fits a parameter, where the entry names those."""
    keys = [key for key in job.origins if key.startswith("optimizer.groups.")]
    with blaming(job, *keys):
        groups = read_groups(job.spec.optimizer.groups)
        if entry.shapes is not None:
            names = entry.shapes(config)
            check_patterns(groups, names)
            check_trained(groups, [name for name in names if not group_of(groups, name).frozen])


def check_data(job: Loaded) -> None:
    """Whether the data is where the job says."""
    data = job.spec.data
    with blaming(job, "data.name", "data.path", *(["data.tokenizer"] if data.tokenizer not in BUILT_IN else [])):
        check_source(data)
    module = data.name.partition(":")[0]
    if not is_packed(data) and data.name not in SHIPPED and not is_module(module):
        raise refuse(job, "data.name", f"names no module: {module!r} is not on the import path")


def is_module(name: str) -> bool:
    """Whether a module can be found, without running it."""
    try:
        return find_spec(name) is not None
    except (ModuleNotFoundError, ValueError):
        return False


def check_folder(job: Loaded) -> None:
    """Whether a run folder could be made: a nameless file is opened where it, or the nearest folder above, stands."""
    folder = Path(job.spec.run.folder).expanduser().absolute()
    standing = next(each for each in (folder, *folder.parents) if each.exists())
    try:
        with tempfile.TemporaryFile(dir=standing):
            pass
    except OSError as error:
        raise refuse(job, "run.folder", f"cannot be written: {standing}: {error.strerror}") from None
