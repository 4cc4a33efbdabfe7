"""Something dangerous, done in a child process that may take so much memory and time, and no more."""

from __future__ import annotations

import multiprocessing
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

_UNIT = 1 if sys.platform == "darwin" else 1024  # of what the system tells


@dataclass(frozen=True)
class Outcome:
    """What became of it: what it returned, or the message of its error; bytes of memory above the start's; seconds."""

    result: Any
    error: str | None
    peak: int
    seconds: float


def confined(function: Callable[..., Any], *arguments: Any, memory: int, seconds: float) -> Outcome:
    """Call `function` in a forked child that may map `memory` bytes more than it has, and is killed after `seconds`.

    A child that is killed, or dies of itself, is an `Outcome` with an error that says so, which no test wants.
    """
    processes = multiprocessing.get_context("fork")
    here, there = processes.Pipe(duplex=False)
    child = processes.Process(target=_run, args=(there, memory, function, arguments), daemon=True)
    begun = time.monotonic()
    child.start()
    there.close()
    try:
        if not here.poll(seconds):
            return Outcome(None, f"killed after {seconds} seconds", 0, seconds)
        return here.recv()
    except EOFError:
        child.join()
        return Outcome(None, f"died with code {child.exitcode}", 0, time.monotonic() - begun)
    finally:
        child.kill()
        child.join()


def _run(answer: Connection, memory: int, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    begun, before = time.monotonic(), _peak()
    if sys.platform == "linux":
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + memory, resource.RLIM_INFINITY))
    result = error = None
    try:
        result = function(*arguments)
    except Exception as raised:
        error = f"{type(raised).__name__}: {raised}"
    answer.send(Outcome(result, error, _peak() - before, time.monotonic() - begun))


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _UNIT
