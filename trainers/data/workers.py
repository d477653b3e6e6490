"""Who packs the parts? This process, or several processes of this module that live as long as the packing.

Invariant: no packing process outlives its parent by more than the part it is at; it ends when its input ends. The
processes are started as fresh interpreters, because this may run beside the threads of torch, where a fork is not safe,
and in a user's script, which must not run a second time.
"""

import json
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from selectors import EVENT_READ, DefaultSelector
from typing import Any

from .documents import Span
from .part import Result, Work, pack_part, read_result
from .sources import Progress

Parts = Sequence[Sequence[Span]]


def pack_parts(work: Work, parts: Parts, workers: int, progress: Progress) -> list[Result]:
    """The results of all parts, those packed by an earlier start taken over.

    Raises:
        ValueError: a part cannot be packed, with the reason.
        RuntimeError: a packing process died.
    """
    results = {number: read_result(work, number) for number in range(len(parts))}
    waiting = [number for number, result in results.items() if result is None]
    todo = {number: parts[number] for number in waiting}
    sizes = [sum(span.bytes for span in part) for part in parts]
    done = sum(sizes) - sum(sizes[number] for number in waiting)
    progress("pack", done, sum(sizes))
    workers = min(workers, len(waiting))
    for number, result in _here(work, todo) if workers <= 1 else _apart(work, todo, workers):
        results[number] = result
        done += sizes[number]
        progress("pack", done, sum(sizes))
    return [result for _, result in sorted(results.items()) if result is not None]


def _here(work: Work, parts: dict[int, Sequence[Span]]) -> Iterator[tuple[int, Result]]:
    for number, spans in parts.items():
        yield number, pack_part(work, number, spans)


def _apart(work: Work, parts: dict[int, Sequence[Span]], workers: int) -> Iterator[tuple[int, Result]]:
    waiting = iter(parts.items())
    with _processes(workers) as processes, DefaultSelector() as selector:
        for process in processes:
            selector.register(process.stdout, EVENT_READ, process)
            _give(process, work, next(waiting))
        while selector.get_map():
            for key, _ in selector.select():
                yield _answer(key.data)
                following = next(waiting, None)
                if following is None:
                    selector.unregister(key.fileobj)
                else:
                    _give(key.data, work, following)


def _give(process: Any, work: Work, part: tuple[int, Sequence[Span]]) -> None:
    number, spans = part
    line = json.dumps({"work": asdict(work), "number": number, "spans": spans})
    try:
        process.stdin.write(f"{line}\n".encode())
        process.stdin.flush()
    except BrokenPipeError:
        raise RuntimeError(f"a packing process ended early, exit code {process.wait()}") from None


def _answer(process: Any) -> tuple[int, Result]:
    line = process.stdout.readline()
    if not line:
        raise RuntimeError(f"a packing process ended early, exit code {process.wait()}")
    answer = json.loads(line)
    if "refused" in answer:
        raise ValueError(answer["refused"])
    if "failed" in answer:
        raise RuntimeError(f"a packing process failed:\n{answer['failed']}")
    return answer["number"], answer["result"]


@contextmanager
def _processes(workers: int) -> Iterator[list[Any]]:
    """Packing processes; they are killed on the way out, whatever the reason."""
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(path or str(Path.cwd()) for path in sys.path),
        "TOKENIZERS_PARALLELISM": "false",  # the processes share the CPUs among themselves
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-P", "-c", f"from {__name__} import serve; serve()"]
    started: list[subprocess.Popen[bytes]] = []
    masked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # inherited: Ctrl-C is the parent's to handle
    try:
        for _ in range(workers):
            started.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment))
        signal.pthread_sigmask(signal.SIG_SETMASK, masked)
        yield started
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, masked)
        for process in started:
            process.kill()
        for process in started:
            with process:
                pass


def serve() -> None:
    """Pack the parts that arrive on standard input, one line of JSON each; answer on standard output."""
    for line in sys.stdin:
        asked = json.loads(line)
        spans = [Span(*span) for span in asked["spans"]]
        try:
            answer = {"number": asked["number"], "result": pack_part(Work(**asked["work"]), asked["number"], spans)}
        except ValueError as error:
            answer = {"refused": str(error)}
        except Exception:
            answer = {"failed": traceback.format_exc()}
        try:
            print(json.dumps(answer), flush=True)
        except BrokenPipeError:  # the parent is gone; what is packed stays for the next start
            os._exit(1)
