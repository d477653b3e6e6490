"""What do all tests share? One warm pool of ranks for the session; each call gets fresh processes and a deadline."""

import os
import signal
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
import torchvision_stubs
from hypothesis import settings
from shardwright.cluster.pool import Pool

settings.register_profile("project", deadline=None)  # a loaded machine is no failure
settings.load_profile("project")
torchvision_stubs.watch()  # an oracle that finds torchvision here imports it


def pytest_configure() -> None:
    """Hear Ctrl-C also where the suite runs in the background of a shell, which lets its children ignore it."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


MISSING = ("not installed", "could not import")  # how the reason of a skip says that a component is missing


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A component that is missing skips its tests with the reason, and fails them where CI=true."""
    report = yield
    reason = str(report.longrepr)
    if report.skipped and os.environ.get("CI") == "true" and any(words in reason for words in MISSING):
        report.outcome = "failed"
        report.longrepr = f"skipped, but nothing may be missing where CI=true: {reason}"
    return report


@pytest.fixture(scope="session")
def pool() -> Iterator[Pool]:
    """Owns the zygote that ranks are forked from."""
    support = str(Path(__file__).parent / "support")  # what test files import must be found in a rank too
    with Pool(["numpy", "pytest", "hypothesis", "shardwright.trainers.world"], paths=[support]) as pool:
        yield pool


@pytest.fixture
def ranks(pool: Pool) -> Callable[..., list[Any]]:
    """`ranks(function, world_size, deadline=60, **payload)`: what function(worker, **payload) returned, by rank.

    The function stands at module level of a test file and returns JSON values; the payload is JSON too.
    """

    def call(function: Callable[..., Any], world_size: int, deadline: float = 60, **payload: Any) -> list[Any]:
        task = f"{function.__code__.co_filename}:{function.__name__}"
        return pool.run(task, world_size, payload, deadline)

    return call
