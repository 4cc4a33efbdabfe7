"""Room in this thread's heap that stays between a run's forwards: what they work in is had once.

GNU's C library gives the free end of a heap back to the system when it has grown large, and maps a block by itself that
is larger than any it saw mapped and freed (mallopt(3), M_MMAP_THRESHOLD and M_TRIM_THRESHOLD). Both happen within
forwards and between them, and each page must then be found anew, empty. A block above what is free, and nothing is at
the end. Only what is larger than 32 MiB is mapped whatever was before, and gains nothing.
"""

from __future__ import annotations

import ctypes

from .heap import gnu_library

# Bytes, with a page for its head. When a mapped block is freed, the library takes such from heaps from then on, if its
# size, in which a flag is set, is no more than 32 MiB: one of just these teaches it nothing.
_LARGEST_KEPT = (32 << 20) - 2 * 4096
_BLOCK = 4 << 20  # bytes: few calls, and little of a thread's heap of 64 MiB is lost at its end
_WORD = ctypes.sizeof(ctypes.c_size_t)
_IS_MAPPED = 2  # in a block's size, which lies before it


class HeapReserve:
    """Nothing is touched but the heads of blocks, so it takes no memory by itself; what was used of it stays until
    `let_go`. Where another C library allocates, or a user has forbidden this one to learn, nothing is held."""

    def __init__(self) -> None:
        self._size = 0
        self._anchor: int | None = None

    def hold(self, size: int) -> None:
        """Hold so many bytes of the heap of the thread that calls this, or nothing where there are not so many; fewer
        than are held change nothing."""
        library = gnu_library()
        if library is None or size <= self._size:
            return
        self.let_go()
        self._size = size
        library.free(library.malloc(_LARGEST_KEPT))  # what a large tensor would teach the library by and by
        blocks: list[int] = []
        while len(blocks) * _BLOCK < size and (block := library.malloc(_BLOCK)):
            blocks.append(block)
            if ctypes.c_size_t.from_address(block - _WORD).value & _IS_MAPPED:
                break
        if len(blocks) * _BLOCK >= size:
            self._anchor = blocks.pop()
        for block in blocks:
            library.free(block)

    def let_go(self) -> None:
        """The heap is the library's again, which keeps of it what it always does. On any thread."""
        library, anchor = gnu_library(), self._anchor
        self._size, self._anchor = 0, None
        if library is not None and anchor is not None:
            library.free(anchor)
