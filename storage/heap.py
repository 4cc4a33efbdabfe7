"""Memory that was let go of, back to the system: the C library keeps it otherwise, for what comes next.

GNU's gives back by itself what it mapped for one tensor, up to 32 MiB of which it learns to keep (mallopt(3),
M_MMAP_THRESHOLD). All others lie in heaps, the main thread's and one of each other thread that asks for memory: what is
free there still counts as this process's. malloc_trim(3) gives back what lies between other things, in all heaps, but
the free end, the top, of the main one only: that of another's stays until it is twice as large as the largest tensor
that is kept. ComfyUI runs its nodes in such a thread. So that thread makes its top something between. Other libraries
have no such call, and are left alone.
"""

from __future__ import annotations

import ctypes
import functools
import gc
import logging
import queue
import sys
import threading
import weakref
from collections.abc import Callable, Mapping
from contextlib import suppress

from .memory_limits import has_own_limits

logger = logging.getLogger("cudaspeed")

_SOON = 1.0  # seconds: who lets go of one thing lets go of others with it, a host of its results among them
_ALL = 2  # the generation of a collection that looks at everything
_BLOCK, _BLOCKS = 1 << 20, 64  # bytes, count: a thread's first heap
_AT_ONCE = 8  # blocks: to look whether they were still free in the heap takes a tenth of a millisecond


LetGo = Callable[[], None]
"""Lets go of something."""


class HeapTrimmer:
    """Calls `trim` when nothing was let go of for `delay` seconds, on a thread of its own, which begins with the first
    that is watched, and sleeps while nothing goes. `trim_here` is for the heap of the thread that calls it."""

    def __init__(
        self, trim: Callable[[], None], trim_here: Callable[[], None] = lambda: None, delay: float = _SOON
    ) -> None:
        self._trim, self._trim_here, self._delay = trim, trim_here, delay
        self._asked: queue.SimpleQueue[LetGo | None] = queue.SimpleQueue()
        self._threads: set[int] = set()  # on which something went lately
        self._thread: threading.Thread | None = None
        self._failed = False

    def watch(self, thing: object) -> None:
        """Trim when `thing` has gone, and whenever `soon` says so."""
        weakref.finalize(thing, self.soon).atexit = False
        if not self._works() and not has_own_limits():
            self._asked = queue.SimpleQueue()  # after a fork the thread that is not here still waits for the old one
            thread = threading.Thread(target=self._work, args=(self._asked,), name="memory of cudaspeed", daemon=True)
            with suppress(RuntimeError):  # there can be no more threads: then nothing is trimmed
                thread.start()
                self._thread = thread

    def soon(self, let_go: LetGo | None = None) -> bool:
        """Something was let go of on this thread, or is when the time has come, by `let_go`. Waits for nobody: it is
        called by what goes, which may be at any moment. Returns whether the time will come.

        What only this thread can give back goes now, and again if Python collects its garbage here meanwhile: so ends
        what ComfyUI does to let go of all. Where the other thread was not begun, or is not in this process, which was
        forked, that is all; none begins here, since this may be the midst of anything.
        """
        self._trim_here()
        if not self._works():
            self._collect_no_more()
            return False
        self._threads.add(threading.get_ident())
        if self._collected not in gc.callbacks:
            gc.callbacks.append(self._collected)
        self._asked.put(let_go)
        return True

    def _works(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def _collect_no_more(self) -> None:
        self._threads.clear()
        with suppress(ValueError):
            gc.callbacks.remove(self._collected)

    def _collected(self, phase: str, told: Mapping[str, int]) -> None:
        if phase == "stop" and told["generation"] == _ALL and threading.get_ident() in self._threads:
            self._trim_here()

    def _work(self, asked_of: queue.SimpleQueue[LetGo | None]) -> None:
        while True:
            asked = [asked_of.get()]
            with suppress(queue.Empty):
                while True:
                    asked.append(asked_of.get(timeout=self._delay))
            while asked:
                let_go = asked.pop()
                if let_go is not None:
                    self._in_spite_of_all(let_go)
                let_go = None  # nor does this thread keep what it knows
            self._collect_no_more()
            self._in_spite_of_all(self._trim)

    def _in_spite_of_all(self, do: LetGo) -> None:
        """A failure is told once: it costs memory that stays, and must not end the thread, which would cost all that is
        let go of later."""
        try:
            do()
        except Exception:
            level = logging.DEBUG if self._failed else logging.WARNING
            logger.log(level, "memory that is not used any more could not be let go of", exc_info=True)
            self._failed = True


def trim_heap() -> None:
    """Give back what lies free between other things, in all heaps, and the main one's top. Takes some milliseconds."""
    library = gnu_library()
    if library is not None:
        library.malloc_trim(0)


def trim_top() -> None:
    """Give back what lies free in this thread's heap, its top included. Takes some milliseconds.

    All that is free is asked for, the top last, untouched but for the head of each block, until the heap has to grow;
    then it is freed but for its end, so that the top lies between other things. A heap consists of pieces of 64 MiB
    (malloc/arena.c, HEAP_MAX_SIZE), and what is free in one that was filled up before is taken before the top.
    """
    library = gnu_library()
    if library is None or threading.current_thread() is threading.main_thread():
        return
    library.free(library.malloc(_BLOCK))  # mapped if it is the first of that size, from which the library learns
    blocks: list[int] = []
    heaps = _heaps()
    most = heaps.fordblks // _BLOCK + _BLOCKS
    while len(blocks) < most and (block := library.malloc(_BLOCK)):
        blocks.append(block)
        if len(blocks) % _AT_ONCE == 0 and _heaps().arena != heaps.arena:
            break
    for block in blocks[:-1]:
        library.free(block)
    library.malloc_trim(0)
    for block in blocks[-1:]:
        library.free(block)


def trim_all() -> None:
    """Both: all that lies free in all heaps, but for the tops of other threads'."""
    trim_top()
    trim_heap()


class _HeapInfo(ctypes.Structure):
    """GNU's struct mallinfo2, mallinfo(3)."""

    _fields_ = [
        *((name, ctypes.c_size_t) for name in ("arena", "ordblks", "smblks", "hblks", "hblkhd")),
        *((name, ctypes.c_size_t) for name in ("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")),
    ]


def bytes_free_in_heaps() -> int:
    """What lies free in all heaps and counts as the process's address space meanwhile; 0 where it is not told."""
    return _heaps().fordblks


def _heaps() -> _HeapInfo:
    """Of all heaps; zeros where it is not told."""
    told = getattr(gnu_library(), "mallinfo2", None)  # since 2.33
    if told is None:
        return _HeapInfo()
    told.restype = _HeapInfo
    return told()


@functools.cache
def gnu_library() -> ctypes.CDLL | None:
    """GNU's C library, whose functions let other Python threads run meanwhile; None where it is another, or another
    allocator was loaded before it, whose blocks are not its own."""
    if sys.platform != "linux":
        return None
    try:
        library = ctypes.CDLL(None)
        library.malloc_trim.argtypes, library.malloc_trim.restype = (ctypes.c_size_t,), ctypes.c_int
        library.malloc.argtypes, library.malloc.restype = (ctypes.c_size_t,), ctypes.c_void_p
        library.free.argtypes, library.free.restype = (ctypes.c_void_p,), None
        its_own = ctypes.CDLL("libc.so.6").malloc
    except (OSError, AttributeError):  # musl's
        return None
    address, its_address = (ctypes.cast(function, ctypes.c_void_p).value for function in (library.malloc, its_own))
    return library if address == its_address else None


TRIMMER = HeapTrimmer(trim_heap, trim_top)
"""The process's."""
