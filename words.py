"""Which words does the command line understand? The verbs' arguments and help; what a verb does is given by the cli."""

import argparse
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Mapping, Sequence
from typing import Any

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
names with a comma between them; a name is parts joined by "_": ddp, zero1, zero2, zero3, tensor, pipeline, context,
expert, each of degree 2 or with its own (ddpx4, zero3x4, tensor4), hsdp2x2, how an axis works (offload, sequence,
gpipe, interleaved, zbv, gather, ulysses), or an engine: deepspeed_zero1, fairscale_oss, horovod (default: the usual
ones that the model allows)"""
ALL = """\
every usual strategy and engine, with the sentence where a model cannot be laid out so; without NAME every entry of
the catalog, written to support-matrix.md and .json (in docs/ where there is one)"""
PROOFS = (
    "gpt2",
    "gpt2 --strategies ddp,zero3,tensor2,zero3x2_tensor2_pipeline2",
    "mine:ENTRY --data mine:SAMPLES --json",
    "--all",
)
FORM = argparse.RawDescriptionHelpFormatter
Calls = Mapping[str, Callable[[Namespace], int]]  # a verb's function by its name


def read_words(words: Sequence[str], calls: Calls) -> Namespace:
    """The verb and its arguments; key=value may stand on both sides of an option.

    Args:
        calls: the verbs' functions by name, such as "run" and "data_prepare"; their docstrings are the help.

    Leaves with exit code 2 (0 for --help) after printing what is wrong.
    """
    parser = make_parser(calls)
    asked, rest = parser.parse_known_args(words)
    if rest and (not hasattr(asked, "overrides") or any(word.startswith("-") for word in rest)):
        asked.parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        asked.overrides += rest
    return asked


def make_parser(calls: Calls) -> ArgumentParser:
    """The whole command line."""
    parser = ArgumentParser("shardwright", description=ABOUT, epilog=EXAMPLES, formatter_class=FORM)
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", required=True)
    add_job_verbs(verbs, calls)
    add_run_verbs(verbs, calls)
    add_data_verbs(add_group(verbs, "data", "pack the data of a job, or show samples of it"), calls)
    add_proof_verbs(add_group(verbs, "verify", "prove that the layout never changes the result"), calls)
    return parser


def add_group(verbs: Any, name: str, help: str) -> Any:
    """Verbs of two words."""
    about = f"{help[0].upper()}{help[1:]}."
    return verbs.add_parser(name, help=help, description=about).add_subparsers(metavar="VERB", required=True)


def add(verbs: Any, call: Callable[[Namespace], int], *examples: str) -> ArgumentParser:
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


def add_job_verbs(verbs: Any, calls: Calls) -> None:
    """The verbs that take a job."""
    verb = add(verbs, calls["init"], "init job.toml", "init > job.toml")
    verb.add_argument("file", metavar="FILE", nargs="?", help="where to; never overwritten (default: print it)")
    verb = add(
        verbs, calls["config"], "config gpt", "config job.toml train.steps=50", "config --schema > job.schema.json"
    )
    add_job(verb, nargs="?")
    add_json(verb)
    verb.add_argument("--schema", action="store_true", help="print the JSON Schema of job files, for editors")
    add_json(add(verbs, calls["models"], "models", "models --json"))
    verb = add(verbs, calls["plan"], "plan gpt", "plan gpt parallel.zero=3 --json")
    add_job(verb)
    add_json(verb)
    verb = add(verbs, calls["render"], "render gpt")
    add_job(verb)
    add_launcher(verb)
    shown = (
        "run gpt",
        "run job.toml train.steps=500 parallel.zero=3",
        "run gpt resources.workers=8 parallel.shard=auto",
    )
    verb = add(verbs, calls["run"], *shown, "run gpt --dry-run")
    add_job(verb)
    add_launcher(verb)
    verb.add_argument("--dry-run", action="store_true", help="plan and render, start nothing")


def add_run_verbs(verbs: Any, calls: Calls) -> None:
    """The verbs that take a run."""
    verb = add(verbs, calls["status"], "status", "status last", "status --json")
    add_run(verb, nargs="?")
    add_json(verb)
    verb = add(verbs, calls["logs"], "logs last", "logs gpt-3 --rank 2 --attempt 0", "logs last -f")
    add_run(verb)
    verb.add_argument("--rank", type=natural, default=0, help="of the worker (default: 0)")
    verb.add_argument("--attempt", type=natural, help="which try of the run (default: the newest)")
    verb.add_argument("-f", "--follow", action="store_true", help="go on printing until the run ends")
    verb = add(verbs, calls["report"], "report last", "report last --json")
    add_run(verb)
    add_json(verb)
    verb = add(verbs, calls["compare"], "compare gpt-1 last")
    add_run(verb)
    verb.add_argument("other", metavar="RUN", help="the run it is compared with")
    add_json(verb)
    add_run(add(verbs, calls["stop"], "stop last"))
    shown = ("resume last", "resume gpt-3 train.steps=4000", "resume last resources.workers=2 parallel.shard=1")
    verb = add(verbs, calls["resume"], *shown)
    add_run(verb)
    verb.add_argument("overrides", metavar="key=value", nargs="*", help="changes a value of the run's job")
    add_launcher(verb)
    add_run(add(verbs, calls["rm"], "rm gpt-1 gpt-2"), nargs="+")
    verb = add(
        verbs,
        calls["generate"],
        "generate last --prompt 'def main('",
        "generate gpt-3 --prompt 'import ' --temperature 0",
    )
    add_run(verb)
    verb.add_argument("--prompt", required=True, help="the text to continue")
    verb.add_argument("--tokens", type=natural, default=200, help="tokens to add (default: 200)")
    verb.add_argument("--temperature", type=float, default=0.8, help="0 takes the likeliest token (default: 0.8)")
    verb.add_argument("--seed", type=natural, default=0, help="of the draws (default: 0)")


def add_data_verbs(verbs: Any, calls: Calls) -> None:
    """The verbs that look at the data of a job."""
    verb = add(verbs, calls["data_prepare"], "data prepare gpt", "data prepare gpt data.tokenizer=bpe --workers 8")
    add_job(verb)
    verb.add_argument("--workers", type=positive, help="processes that pack (default: one for each CPU)")
    verb = add(verbs, calls["data_show"], "data show gpt", "data show gpt -n 1 --json")
    add_job(verb)
    add_json(verb)
    verb.add_argument("-n", "--number", type=positive, default=3, help="how many samples (default: 3)")


def add_proof_verbs(verbs: Any, calls: Calls) -> None:
    """The verbs that prove a promise."""
    verb = add(verbs, calls["verify_model"], *(f"verify model {words}" for words in PROOFS))
    verb.add_argument(
        "model",
        metavar="NAME",
        nargs="?",
        default="",
        help="an entry of `shardwright models`, or package.module:object",
    )
    verb.add_argument("--all", action="store_true", help=ALL)
    verb.add_argument("--strategies", metavar="A,B", nargs="+", default=[], help=STRATEGIES)
    verb.add_argument("--preset", default="", help="named sizes of the entry (default: the first)")
    verb.add_argument("--data", default="", help="package.module:object of samples, for a model that reads its own")
    verb.add_argument(
        "--dtype",
        default="fp32",
        choices=("fp32", "bf16"),
        help="of forward and backward under the strategies; one process computes in fp32 (default: fp32)",
    )
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
