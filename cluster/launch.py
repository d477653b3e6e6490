"""How does a person start, find, continue and stop a run? The verbs that the command line and Python share."""

from collections.abc import Mapping
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ..jobs.check import BUILT_IN, check_job, check_place
from ..jobs.load import Loaded, load_job, load_resolved
from ..jobs.run_folder import RunError, find
from ..jobs.spec import JobError
from .code import folder_of, on_path, own_files
from .handle import Handle, Status
from .launcher import Request, find_launcher
from .plan import plan

RUNS = "runs"
Job = str | Path | Mapping[str, Any]


def render(job: Job, *overrides: str, on: str = "local") -> Request:
    """What `run` would do, as a value that prints itself; only the plan is left out. Nothing is made.

    Raises:
        JobError: the job is wrong, or cannot run here.
    """
    folder = folder_of(job)
    with on_path([folder]):
        loaded = load_job(job, overrides)
        check_job(loaded)
        check_place(loaded)
    return find_launcher(on).render(rooted(loaded), None, own_files(own_names(loaded), [folder]))


def own_names(job: Loaded) -> list[str]:
    """What a job names outside the catalog."""
    return [name for name in (job.spec.model.name, job.spec.data.name) if ":" in name]


def rooted(job: Loaded) -> Loaded:
    """The job with paths that hold in any folder, since a run may be continued from another one."""
    data, run = job.spec.data, job.spec.run
    paths: dict[str, Any] = {name: absolute(getattr(data, name)) for name in ("path", "cache")}
    if data.tokenizer not in BUILT_IN:
        paths["tokenizer"] = absolute(data.tokenizer)
    spec = replace(job.spec, data=replace(data, **paths), run=replace(run, folder=absolute(run.folder)))
    return replace(job, spec=spec)


def absolute(path: str) -> str:
    """A path (or glob) from the root; "" stays."""
    return str(Path(path).expanduser().absolute()) if path else ""


def run(job: Job, *overrides: str, on: str = "local", attached: bool = False) -> Handle:
    """Start a job in the background.

    Args:
        job: a job file, the bare name of a shipped one, or the same tree as a mapping.
        overrides: "key=value" words.
        on: the launcher's name.
        attached: stop the run when the thread that called this ends, however it ends.

    Raises:
        JobError: the job is wrong, or cannot run here.
        RunError: its run folder cannot be made.
    """
    require_torch()
    planned = plan(job, *overrides)
    request = replace(render(job, *overrides, on=on), plan=planned.tree(), attached=attached)
    return find_launcher(on).submit(request)


def resume(
    run: str | Path, *overrides: str, on: str = "local", folder: str | Path = RUNS, attached: bool = False
) -> Handle:
    """Continue a run in the background, with other values where some are given; `attached` as in `run`.

    Raises:
        JobError: the new values are wrong.
        RunError: there is no such run, or a job is on it.
    """
    require_torch()
    request = render_resume(run, *overrides, on=on, folder=folder)
    return find_launcher(on).submit(replace(request, attached=attached))


def render_resume(run: str | Path, *overrides: str, on: str = "local", folder: str | Path = RUNS) -> Request:
    """What `resume` would do; new values become the run's own. Nothing is touched."""
    found = find(run, Path(folder))
    if holder := found.holder():
        raise RunError(f"run {found.name} is live ({holder}); stop it first: shardwright stop {found.path}")
    code = [path for path in found.code.iterdir() if not path.name.startswith(".")]
    with on_path(code):
        loaded = load_resolved(found.spec, overrides)
        check_job(loaded)
        check_place(loaded)
    return find_launcher(on).render(loaded, found, {})


def load_run(run: str | Path = "last", folder: str | Path = RUNS) -> Handle:
    """A run that exists, by name, path, or "last" for the newest in the folder.

    Raises:
        RunError: there is no such run.
    """
    return Handle(find(run, Path(folder)))


def stop(run: str | Path = "last", folder: str | Path = RUNS) -> Status:
    """Let a run save and leave."""
    return load_run(run, folder).stop()


def require_torch() -> None:
    """Training needs more than the bare install.

    Raises:
        JobError: torch is missing.
    """
    if find_spec("torch") is None:
        raise JobError("training needs torch, which is not installed: pip install 'shardwright[train]'")
