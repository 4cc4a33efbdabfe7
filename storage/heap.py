"""Memory that was let go of, back to the system: the C library keeps it otherwise, for what comes next.

GNU's gives back by itself what lies at the end of its heap, and tensors that it mapped one by one, of up to 32 MiB
each of which it learns to keep (mallopt(3), M_MMAP_THRESHOLD). What lies between, in the heaps of all threads, is free
and still counts as this process's. malloc_trim(3) gives it back. Other libraries have no such call, and are left alone.
"""

from __future__ import annotations

import ctypes
import functools
import queue
import sys
import threading
import weakref
from collections.abc import Callable
from contextlib import suppress

_SOON = 1.0  # seconds: who lets go of one thing lets go of others with it, a host of its results among them


LetGo = Callable[[], None]
"""Lets go of something, and raises nothing."""


class HeapTrimmer:
    """Calls `trim` when nothing was let go of for `delay` seconds, on a thread of its own, which begins with the first
    that is watched, and sleeps while nothing goes."""

    def __init__(self, trim: Callable[[], None], delay: float = _SOON) -> None:
        self._trim, self._delay = trim, delay
        self._asked: queue.SimpleQueue[LetGo | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def watch(self, thing: object) -> None:
        """Trim when `thing` has gone, and whenever `soon` says so."""
        weakref.finalize(thing, self.soon).atexit = False
        if self._thread is None or not self._thread.is_alive():  # in a process that was forked it is not
            thread = threading.Thread(target=self._work, name="memory of cudaspeed", daemon=True)
            with suppress(RuntimeError):  # there can be no more threads: then nothing is trimmed
                thread.start()
                self._thread = thread

    def soon(self, let_go: LetGo | None = None) -> None:
        """Something was let go of, or is when the time has come, by `let_go`. Waits for nobody: it is called by what
        goes, which may be at any moment."""
        self._asked.put(let_go)

    def _work(self) -> None:
        while True:
            asked = [self._asked.get()]
            with suppress(queue.Empty):
                while True:
                    asked.append(self._asked.get(timeout=self._delay))
            while asked:
                let_go = asked.pop()
                if let_go is not None:
                    let_go()
                let_go = None  # nor does this thread keep what it knows
            self._trim()


def trim_heap() -> None:
    """Give back what the C library holds free, in all its heaps, now. Takes some milliseconds for a gigabyte."""
    trim = _malloc_trim()
    if trim is not None:
        trim(0)


@functools.cache
def _malloc_trim() -> Callable[[int], int] | None:
    """The C library's, which lets other Python threads run meanwhile; None where it has none."""
    if sys.platform != "linux":
        return None
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError):  # musl's
        return None
    trim.argtypes, trim.restype = (ctypes.c_size_t,), ctypes.c_int
    return trim


TRIMMER = HeapTrimmer(trim_heap)
"""The process's."""
