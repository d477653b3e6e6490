"""Which verbs does a person have? One function per verb; a heavy import happens inside its verb.

What a person did wrong is one sentence on stderr and exit code 2; a run or a proof that failed is exit code 1; Ctrl-C
is 130. Anything else is our fault and shows its traceback.
"""

import argparse
import json
import os
import signal
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .cluster.handle import Handle
    from .jobs.load import Loaded
    from .jobs.run_folder import RunFolder

ABOUT = """\
One job file trains any PyTorch model, sharded any way, and proves that the layout never changed the result.

  JOB   a job file, or the bare name of a shipped example: gpt
  RUN   a run's name, its folder, or "last" for the newest one
  key=value behind a JOB changes one value: train.steps=200, optimizer.betas=[0.9,0.99], model.preset=small
"""
EXAMPLES = """\
examples:
  shardwright run gpt                             train a small GPT on this machine, over four workers
  shardwright run gpt parallel.zero=3 --dry-run   what would be started, and how much memory each rank needs
  shardwright init > job.toml                     a commented job file to start from
  shardwright resume last                         go on with the newest run
  shardwright verify model gpt2                   is every layout equal to one process?

`shardwright VERB --help` tells more of a verb.
"""
STRATEGIES = """\
names with a comma between them; a name is parts joined by "_": ddp, zero1, zero2, zero3, tensor, pipeline, each of
degree 2, or with its degree: ddpx4, zero3x4, tensor4, pipeline4 (default: each that the
model allows, and zero3x2_tensor2_pipeline2)"""
PROOFS = (
    "gpt2",
    "gpt2 --strategies ddp,zero3,tensor2,zero3x2_tensor2_pipeline2",
    "mine:ENTRY --data mine:SAMPLES --json",
)
FORM = argparse.RawDescriptionHelpFormatter
Verb = Callable[[Namespace], int]


def main(words: Sequence[str] | None = None) -> int:
    """Run the verb named on the command line; the return value is the exit code."""
    asked = read_words(sys.argv[1:] if words is None else words)
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


def read_words(words: Sequence[str]) -> Namespace:
    """The verb and its arguments; key=value may stand on both sides of an option.

    Leaves with exit code 2 (0 for --help) after printing what is wrong.
    """
    parser = make_parser()
    asked, rest = parser.parse_known_args(words)
    if rest and (not hasattr(asked, "overrides") or any(word.startswith("-") for word in rest)):
        asked.parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        asked.overrides += rest
    return asked


def make_parser() -> ArgumentParser:
    """The whole command line."""
    parser = ArgumentParser("shardwright", description=ABOUT, epilog=EXAMPLES, formatter_class=FORM)
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", required=True)
    add_job_verbs(verbs)
    add_run_verbs(verbs)
    add_data_verbs(add_group(verbs, "data", "pack the data of a job, or show samples of it"))
    add_proof_verbs(add_group(verbs, "verify", "prove that the layout never changes the result"))
    return parser


def add_group(verbs: Any, name: str, help: str) -> Any:
    """Verbs of two words."""
    about = f"{help[0].upper()}{help[1:]}."
    return verbs.add_parser(name, help=help, description=about).add_subparsers(metavar="VERB", required=True)


def add(verbs: Any, call: Verb, *examples: str) -> ArgumentParser:
    """One verb, called like its function behind the last "_"; help is the function's docstring, and the examples."""
    about = (call.__doc__ or "").strip()
    shown = "\n".join(["examples:", *(f"  shardwright {example}" for example in examples)])
    first = about.partition(";")[0].rstrip(".")
    short = first[:1].lower() + first[1:]
    name = call.__name__.rpartition("_")[2]
    form: Any = {"description": about, "epilog": shown, "formatter_class": FORM, "allow_abbrev": False}
    made: ArgumentParser = verbs.add_parser(name, help=short, **form)
    made.set_defaults(call=call, parser=made)
    return made


def add_job(verb: ArgumentParser, **more: Any) -> None:
    """JOB and the values changed behind it."""
    verb.add_argument("job", metavar="JOB", help="a job file, or the name of a shipped example such as gpt", **more)
    verb.add_argument("overrides", metavar="key=value", nargs="*", help="changes a value, such as train.steps=200")


def add_run(verb: ArgumentParser, **more: Any) -> None:
    """RUN and where runs are."""
    verb.add_argument("run", metavar="RUN", help='name or folder of a run, or "last" for the newest', **more)
    verb.add_argument("--folder", default="runs", help="folder that holds the run folders (default: runs)")


def add_json(verb: ArgumentParser) -> None:
    """--json."""
    verb.add_argument("--json", action="store_true", help="print it for machines")


def add_launcher(verb: ArgumentParser) -> None:
    """--on NAME."""
    verb.add_argument("--on", metavar="LAUNCHER", default="local", help="where to run (default: local, this machine)")


def add_job_verbs(verbs: Any) -> None:
    """The verbs that take a job."""
    verb = add(verbs, init, "init job.toml", "init > job.toml")
    verb.add_argument("file", metavar="FILE", nargs="?", help="where to; never overwritten (default: print it)")
    verb = add(verbs, config, "config gpt", "config job.toml train.steps=50", "config --schema > job.schema.json")
    add_job(verb, nargs="?")
    add_json(verb)
    verb.add_argument("--schema", action="store_true", help="print the JSON Schema of job files, for editors")
    add_json(add(verbs, models, "models", "models --json"))
    verb = add(verbs, plan, "plan gpt", "plan gpt parallel.zero=3 --json")
    add_job(verb)
    add_json(verb)
    verb = add(verbs, render, "render gpt")
    add_job(verb)
    add_launcher(verb)
    shown = (
        "run gpt",
        "run job.toml train.steps=500 parallel.zero=3",
        "run gpt resources.workers=8 parallel.shard=auto",
    )
    verb = add(verbs, run, *shown, "run gpt --dry-run")
    add_job(verb)
    add_launcher(verb)
    verb.add_argument("--dry-run", action="store_true", help="plan and render, start nothing")


def add_run_verbs(verbs: Any) -> None:
    """The verbs that take a run."""
    verb = add(verbs, status, "status", "status last", "status --json")
    add_run(verb, nargs="?")
    add_json(verb)
    verb = add(verbs, logs, "logs last", "logs gpt-3 --rank 2 --attempt 0", "logs last -f")
    add_run(verb)
    verb.add_argument("--rank", type=natural, default=0, help="of the worker (default: 0)")
    verb.add_argument("--attempt", type=natural, help="which try of the run (default: the newest)")
    verb.add_argument("-f", "--follow", action="store_true", help="go on printing until the run ends")
    verb = add(verbs, report, "report last", "report last --json")
    add_run(verb)
    add_json(verb)
    verb = add(verbs, compare, "compare gpt-1 last")
    add_run(verb)
    verb.add_argument("other", metavar="RUN", help="the run it is compared with")
    add_json(verb)
    add_run(add(verbs, stop, "stop last"))
    shown = ("resume last", "resume gpt-3 train.steps=4000", "resume last resources.workers=2 parallel.shard=1")
    verb = add(verbs, resume, *shown)
    add_run(verb)
    verb.add_argument("overrides", metavar="key=value", nargs="*", help="changes a value of the run's job")
    add_launcher(verb)
    add_run(add(verbs, rm, "rm gpt-1 gpt-2"), nargs="+")
    verb = add(
        verbs, generate, "generate last --prompt 'def main('", "generate gpt-3 --prompt 'import ' --temperature 0"
    )
    add_run(verb)
    verb.add_argument("--prompt", required=True, help="the text to continue")
    verb.add_argument("--tokens", type=natural, default=200, help="tokens to add (default: 200)")
    verb.add_argument("--temperature", type=float, default=0.8, help="0 takes the likeliest token (default: 0.8)")
    verb.add_argument("--seed", type=natural, default=0, help="of the draws (default: 0)")


def add_data_verbs(verbs: Any) -> None:
    """The verbs that look at the data of a job."""
    verb = add(verbs, data_prepare, "data prepare gpt", "data prepare gpt data.tokenizer=bpe --workers 8")
    add_job(verb)
    verb.add_argument("--workers", type=positive, help="processes that pack (default: one for each CPU)")
    verb = add(verbs, data_show, "data show gpt", "data show gpt -n 1 --json")
    add_job(verb)
    add_json(verb)
    verb.add_argument("-n", "--number", type=positive, default=3, help="how many samples (default: 3)")


def add_proof_verbs(verbs: Any) -> None:
    """The verbs that prove a promise."""
    verb = add(verbs, verify_model, *(f"verify model {words}" for words in PROOFS))
    verb.add_argument("model", metavar="NAME", help="an entry of `shardwright models`, or package.module:object")
    verb.add_argument("--strategies", metavar="A,B", nargs="+", default=[], help=STRATEGIES)
    verb.add_argument("--preset", default="", help="named sizes of the entry (default: the first)")
    verb.add_argument("--data", default="", help="package.module:object of samples, for a model that reads its own")
    add_json(verb)


def positive(word: str) -> int:
    """A whole number, 1 or more."""
    number = int(word)
    if number < 1:
        raise ValueError(f"{number} is not positive")
    return number


def natural(word: str) -> int:
    """A whole number, 0 or more."""
    number = int(word)
    if number < 0:
        raise ValueError(f"{number} is negative")
    return number


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
    for entry in found:
        print(f"{entry['name']}  {entry['paper']}")
        for name, preset in entry["presets"].items():
            splits = "  ".join(f"{axis} {split(preset[axis])}" for axis in ("tensor", "pipeline"))
            print(f"  {name:8} {preset['parameters']:>14,} parameters  {splits}")
    return 0


def split(legal: Sequence[int] | str) -> str:
    """The legal degrees of an axis, a run of them as first-last; or the sentence why there is one only."""
    if isinstance(legal, str) or len(legal) < 4 or legal[-1] - legal[0] != len(legal) - 1:
        return legal if isinstance(legal, str) else ",".join(map(str, legal))
    return f"{legal[0]}-{legal[-1]}"


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
        print(f"{job.spec.data.name} is a data set of your own; there is nothing to pack")
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

    names = [name for word in asked.strategies for name in word.split(",") if name] or None
    tell = (lambda verdict: None) if asked.json else (lambda verdict: print(row(verdict), flush=True))
    try:
        if not asked.json:
            print(HEADER)
        found = verify(asked.model, names, preset=asked.preset, data=asked.data, paths=(str(Path.cwd()),), found=tell)
    except ValueError as error:
        raise JobError(str(error)) from error
    if asked.json:
        print(found.to_json())
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
