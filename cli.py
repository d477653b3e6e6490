"""Which verbs does a person have? One function per verb; a heavy import happens inside its verb.

What a person did wrong is one sentence on stderr and exit code 2; a run or a proof that failed is exit code 1; Ctrl-C
is 130. Anything else is our fault and shows its traceback.
"""

import json
import os
import signal
import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .words import read_words

if TYPE_CHECKING:
    from .cluster.handle import Handle
    from .cluster.verify import Verdict
    from .jobs.load import Loaded
    from .jobs.run_folder import RunFolder


def main(words: Sequence[str] | None = None) -> int:
    """Run the verb named on the command line; the return value is the exit code."""
    asked = read(sys.argv[1:] if words is None else words)
    if str(Path.cwd()) not in sys.path:  # where a model or data of one's own is found
        sys.path.append(str(Path.cwd()))
    try:
        return int(asked.call(asked))
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except Exception as error:
        if (message := sentence(error)) is None:
            raise
        print(f"shardwright: {message}", file=sys.stderr)
        return 2


def read(words: Sequence[str]) -> Namespace:
    """The verb and its arguments; leaves with exit code 2 (0 for --help) after printing what is wrong."""
    return read_words(words, {verb.__name__: verb for verb in VERBS})


def sentence(error: Exception) -> str | None:
    """What a person is told of an error of theirs; None for an error of ours."""
    from .jobs.run_folder import RunError
    from .jobs.spec import JobError
    from .trainers.checkpoint.manifest import CheckpointError

    if isinstance(error, JobError | RunError | CheckpointError | TimeoutError):
        return str(error)
    if isinstance(error, ModuleNotFoundError) and error.name in ("torch", "safetensors", "tokenizers"):
        return f"this needs {error.name}: pip install 'shardwright[train]'"
    return None


def init(asked: Namespace) -> int:
    """Write a commented job file to start from; an existing file is never touched."""
    from .jobs.spec import JobError
    from .jobs.template import job_template

    text = job_template(sections())
    if asked.file is None:
        print(text, end="")
        return 0
    try:
        with Path(asked.file).open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise JobError(f"{asked.file} exists; name another file, or remove it first") from None
    except OSError as error:
        raise JobError(f"{asked.file} cannot be written: {error.strerror}") from None
    print(f"wrote {asked.file}; next: shardwright run {asked.file} --dry-run")
    return 0


def config(asked: Namespace) -> int:
    """Print every value of a job with its origin; --schema prints the JSON Schema of all jobs."""
    from .jobs.check import check_job
    from .jobs.schema import job_schema
    from .jobs.show import to_json, to_toml

    if asked.schema:
        print(json.dumps(job_schema(sections()), indent=2))
        return 0
    if asked.job is None:
        asked.parser.error("config needs a JOB, or --schema")
    job = load(asked)
    check_job(job)
    write = to_json if asked.json else to_toml
    print(write(job.spec, job.origins).rstrip("\n"))
    return 0


def models(asked: Namespace) -> int:
    """List the catalog: presets, sizes and the degrees that can split them."""
    from .models.catalog import listing

    found = listing()
    if asked.json:
        print(json.dumps(found, indent=2))
        return 0
    wide = max(len(name) for entry in found for name in entry["presets"])
    print("Degrees that split each; - stands for one only, with the reason in --json.")
    for entry in found:
        print(f"{entry['name']}  {entry['paper']}")
        for name, preset in entry["presets"].items():
            splits = "  ".join(f"{axis} {split(preset[axis])}" for axis in ("tensor", "pipeline", "context", "expert"))
            print(f"  {name:{wide}} {preset['parameters']:>14,} parameters  {splits}")
    return 0


def split(legal: Sequence[int] | str) -> str:
    """The legal degrees of an axis in few words: a run as first-last, of many the ends, "any", or "-" for one only."""
    if isinstance(legal, str) or tuple(legal) == (1,):
        return "-"
    if not legal:
        return "any"
    if len(legal) > 3 and legal[-1] - legal[0] == len(legal) - 1:
        return f"{legal[0]}-{legal[-1]}"
    words = [str(degree) for degree in legal]
    return ",".join(words if len(words) < 7 else [*words[:4], "..", words[-1]])


def plan(asked: Namespace) -> int:
    """Compute mesh, sizes and memory of each rank before anything starts; the memory is told term by term."""
    from .cluster.plan import plan

    found = plan(asked.job, *asked.overrides)
    print(found.to_json() if asked.json else found)
    return 0


def render(asked: Namespace) -> int:
    """Print exactly what the launcher would start; submitting hands over this very value."""
    from .cluster.launch import render

    print(render(asked.job, *asked.overrides, on=asked.on))
    return 0


def run(asked: Namespace) -> int:
    """Train a job; Ctrl-C stops it in a state that can be resumed."""
    from .cluster.launch import run

    if asked.dry_run:
        from .cluster.plan import plan

        print(plan(asked.job, *asked.overrides), end="\n\n")
        return render(asked)
    return follow(run(asked.job, *asked.overrides, on=asked.on, attached=True))


def resume(asked: Namespace) -> int:
    """Go on with a run; also on another number of workers and another layout."""
    from .cluster.launch import resume

    return follow(resume(asked.run, *asked.overrides, on=asked.on, folder=asked.folder, attached=True))


def follow(handle: "Handle") -> int:
    """Show a run until its end: 0 finished, 1 failed, 130 stopped. A wish to end this command ends the run."""
    from threading import Thread

    print(f"run {handle.run.name} in {shortest(handle.run.path)}", flush=True)
    view = Thread(target=show, args=(handle,))
    for wish in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(wish, signal.default_int_handler)
    view.start()
    try:
        handle.wait()
    except KeyboardInterrupt:  # the run has saved and left
        print(file=sys.stderr)
    finally:
        view.join()
    return tell_end(handle)


def show(handle: "Handle") -> None:
    """The live view; a run goes on when nobody looks any more."""
    from contextlib import suppress

    from .cluster.view import watch

    with suppress(BrokenPipeError):
        watch(handle.run, lambda: handle.live, sys.stdout)


def tell_end(handle: "Handle") -> int:
    """What came of a run."""
    from .cluster.summary import summarize, summary_text
    from .jobs.report.page import write

    status = handle.status
    write(handle.run)
    print("", status.report or summary_text(summarize(handle.run)), sep="\n")
    return {"finished": 0, "stopped": 130}.get(status.state, 1)


def shortest(path: Path) -> Path:
    """A path as a person here would write it."""
    path = path.absolute()
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def status(asked: Namespace) -> int:
    """List the runs of a folder; or tell how one of them stands."""
    from .cluster.status import list_status, status_text

    if asked.run is not None:
        return status_of_one(asked)
    rows = list_status(Path(asked.folder))
    print(json.dumps(rows, indent=2) if asked.json else status_text(rows))
    return 0


def status_of_one(asked: Namespace) -> int:
    """How one run stands."""
    from .cluster.handle import Handle
    from .cluster.status import one_status
    from .cluster.summary import summarize, summary_text

    found = find_run(asked)
    if asked.json:
        print(json.dumps(one_status(found), indent=2))
        return 0
    print(summary_text(summarize(found)))
    if why := Handle(found).status.report:
        print("", why, sep="\n")
    return 0


def compare(asked: Namespace) -> int:
    """Tell what differs between two runs and what came of it; jobs, losses, throughput."""
    from .cluster.status import compare, compare_text
    from .jobs.run_folder import find

    found = compare(find_run(asked), find(asked.other, Path(asked.folder)))
    print(json.dumps(found, indent=2) if asked.json else compare_text(found))
    return 0


def stop(asked: Namespace) -> int:
    """End a live run; its workers save first, so that it can be resumed."""
    from .cluster.launch import stop

    found = stop(asked.run, asked.folder)
    print(f"run {asked.run}: {found.state} at step {found.step}; go on with: shardwright resume {asked.run}")
    return 0


def logs(asked: Namespace) -> int:
    """Print what a worker printed; -f goes on while the run is live."""
    from .cluster.status import follow_log

    for text in follow_log(find_run(asked), asked.rank, asked.attempt, follow=asked.follow):
        print(text, end="", flush=True)
    return 0


def report(asked: Namespace) -> int:
    """Write report.html; it holds curves, throughput, where the time went, configuration and environment."""
    from .cluster.summary import summarize, summary_text
    from .jobs.report.page import write

    found = find_run(asked)
    write(found)
    summary = summarize(found)
    print(json.dumps(summary, indent=2) if asked.json else summary_text(summary))
    return 0


def rm(asked: Namespace) -> int:
    """Delete runs with everything in them; nothing is deleted if one of them is not found."""
    from .jobs.run_folder import find, remove

    found = [find(name, Path(asked.folder)) for name in asked.run]
    for folder in found:
        remove(folder)
        print(f"removed {folder.path}")
    return 0


def generate(asked: Namespace) -> int:
    """Let the newest checkpoint of a run continue a text."""
    from .cluster.code import on_path
    from .jobs.check import blaming, check_job
    from .jobs.generate import continue_text
    from .jobs.load import load_resolved
    from .jobs.spec import JobError
    from .trainers.checkpoint.manifest import newest
    from .trainers.data.dataset import open_data

    run = find_run(asked)
    checkpoint = newest(run.checkpoints)
    if checkpoint is None:
        raise JobError(f"run {run.name} has no checkpoint yet; one is saved at its end, and as checkpoint.every says")
    with on_path([path for path in run.code.iterdir() if not path.name.startswith(".")]):
        job = load_resolved(run.spec)
        checked = check_job(job)
        with blaming(job):
            data = open_data(job.spec.data, checked.entry.data)
            drawn = {"tokens": asked.tokens, "temperature": asked.temperature, "seed": asked.seed}
            print(continue_text(checked, data, checkpoint, asked.prompt, **drawn))
    return 0


def data_prepare(asked: Namespace) -> int:
    """Pack the data of a job; what was packed before and has not changed is used again."""
    from .jobs.check import blaming
    from .trainers.data.pack import prepare
    from .trainers.data.sources import is_packed

    job = load(asked)
    if not is_packed(job.spec.data):
        print(f"{job.spec.data.name} gives samples; there is nothing to pack")
        return 0
    with blaming(job, "data.name", "data.path", "data.tokenizer"):
        packed = prepare(job.spec.data, show_progress, asked.workers)
    tokens = packed.manifest["tokens"]
    print(f"{tokens['train']:,} tokens to train on and {tokens['held_out']:,} held out, in {packed.folder}")
    return 0


def show_progress(what: str, done: int, total: int) -> None:
    """One line that is written over and over, on a terminal only."""
    if sys.stderr.isatty():
        end = "\n" if done >= total else ""
        print(f"\r{what}: {done / 1e6:,.1f} of {total / 1e6:,.1f} MB", end=end, file=sys.stderr, flush=True)


def data_show(asked: Namespace) -> int:
    """Print samples of a job's data as the model will see them."""
    from .jobs.check import blaming, check_job
    from .trainers.data.show import lines, samples

    job = load(asked)
    kind = check_job(job).entry.data
    with blaming(job, "data.name", "data.path", "data.tokenizer"):
        found = samples(job.spec.data, kind, job.spec.run.seed, asked.number)
    print(json.dumps(found, indent=2) if asked.json else "\n".join(lines(found)))
    return 0


def verify_model(asked: Namespace) -> int:
    """Compare strategies of a model with one process; exit code 1 when any of them is not equal to it."""
    from .cluster.verify import HEADER, row, verify
    from .jobs.spec import JobError

    if asked.all and asked.dtype != "fp32":
        raise JobError("--all fills the support matrix, which is in fp32; name a model for --dtype")
    if asked.all:
        return verify_all(asked)
    if not asked.model:
        raise JobError("name a model of `shardwright models`, or say --all")
    names = [name for word in asked.strategies for name in word.split(",") if name] or None
    tell = (lambda verdict: None) if asked.json else (lambda verdict: print(row(verdict), flush=True))
    try:
        if not asked.json:
            print(HEADER)
        options = {"preset": asked.preset, "data": asked.data, "dtype": asked.dtype}
        found = verify(asked.model, names, **options, paths=(str(Path.cwd()),), found=tell)
    except ValueError as error:
        raise JobError(str(error)) from error
    if asked.json:
        print(found.to_json())
    return 0 if found.ok else 1


def verify_all(asked: Namespace) -> int:
    """Fill the support matrix: of one entry, printed; of the whole catalog, also written."""
    from .cluster.matrix import support_matrix
    from .cluster.matrix_page import write
    from .cluster.verify import HEADER, row
    from .models.catalog import ENTRIES

    def tell(model: str, verdict: "Verdict") -> None:
        if not asked.json:
            print(f"{model:12} {row(verdict)}", flush=True)

    if not asked.json:
        print(f"{'entry':12} {HEADER}")
    found = support_matrix([asked.model] if asked.model else list(ENTRIES), found=tell)
    if not asked.model:
        folder = write(found, Path("docs") if Path("docs").is_dir() else Path.cwd())
        print(f"written: {folder / 'support-matrix.md'} and support-matrix.json", file=sys.stderr)
    if asked.json:
        print(found.to_json(), end="")
    return 0 if found.ok else 1


def load(asked: Namespace) -> "Loaded":
    """The job that was asked for; its folder holds the user's own modules."""
    from .cluster.code import folder_of
    from .jobs.load import load_job

    sys.path.insert(0, str(folder_of(asked.job)))
    return load_job(asked.job, asked.overrides, launchers=sections())


def find_run(asked: Namespace) -> "RunFolder":
    """The run that was asked for."""
    from .jobs.run_folder import find

    return find(asked.run, Path(asked.folder))


def sections() -> dict[str, type]:
    """Section -> option type of each installed launcher that brings one to the job file."""
    from importlib.metadata import entry_points

    launchers = {point.name: point.load() for point in entry_points(group="shardwright.launchers")}
    return {name: launcher.options for name, launcher in launchers.items() if launcher.options is not None}


VERBS = (
    init,
    config,
    models,
    plan,
    render,
    run,
    status,
    logs,
    report,
    compare,
    stop,
    resume,
    rm,
    generate,
    data_prepare,
    data_show,
    verify_model,
)
