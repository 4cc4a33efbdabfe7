"""Something dangerous, done in a child process that may take so much memory and time, and no more.

Time is the processors', which stays the same beside other processes; only who waits is ended by the clock on the wall.
"""

from __future__ import annotations

import ctypes
import math
import multiprocessing
import resource
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

_WAITING = 10  # times as long may pass: on a machine with other things to do, or while nothing is computed
_MMAP_THRESHOLD = -3  # M_MMAP_THRESHOLD of mallopt(3): 128 KiB at first, and no longer moved once it is set
_UNIT = 1 if sys.platform == "darwin" else 1024  # of what the system tells


@dataclass(frozen=True)
class Outcome:
    """What became of it: what it returned, or the message of its error; bytes of memory above the start's; seconds of
    processors."""

    result: Any
    error: str | None
    peak: int
    seconds: float


def confined(function: Callable[..., Any], *arguments: Any, memory: int, seconds: float) -> Outcome:
    """Call `function` in a forked child that may map `memory` bytes more than it has, and is killed after `seconds` of
    computing.

    A child that is killed, or dies of itself, is an `Outcome` with an error that says so, which no test wants.
    """
    processes = multiprocessing.get_context("fork")
    here, there = processes.Pipe(duplex=False)
    child = processes.Process(target=_run, args=(there, memory, math.ceil(seconds), function, arguments), daemon=True)
    child.start()
    there.close()
    try:
        if not here.poll(_WAITING * seconds):
            return Outcome(None, f"killed after {_WAITING * seconds} seconds on the wall", 0, seconds)
        return here.recv()
    except EOFError:
        child.join()
        out_of_time = child.exitcode == -signal.SIGXCPU
        error = f"killed after {seconds} seconds" if out_of_time else f"died with code {child.exitcode}"
        return Outcome(None, error, 0, seconds)
    finally:
        child.kill()
        child.join()


def _run(
    answer: Connection, memory: int, seconds: int, function: Callable[..., Any], arguments: tuple[Any, ...]
) -> None:
    _forget_what_was_freed()
    begun, before = time.process_time(), _peak()
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, resource.RLIM_INFINITY))
    if sys.platform == "linux":
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + memory, resource.RLIM_INFINITY))
    result = error = None
    try:
        result = function(*arguments)
    except Exception as raised:
        error = f"{type(raised).__name__}: {raised}"
    answer.send(Outcome(result, error, _peak() - before, time.process_time() - begun))


def _forget_what_was_freed() -> None:
    """With GNU's C library memory that the tests before have freed would be used again unseen, or, where what they
    freed was large, what is freed from now on would stay: the same work would be seen to take 30 MB more or less."""
    with suppress(OSError, AttributeError):  # another C library
        library = ctypes.CDLL("libc.so.6")
        library.mallopt(_MMAP_THRESHOLD, 128 * 1024)
        library.malloc_trim(0)


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _UNIT
