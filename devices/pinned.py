"""Pinned main memory, which a device copies to and from by itself: bounded over all that this process has of it by us,
and given back.

It cannot be swapped out, and torch keeps what nobody uses any more for the next who asks, for ever: a process that asks
for many sizes would come to hold most of the machine. So what torch keeps of ours counts, too, and goes back when
something else needs the room.
"""

from __future__ import annotations

import logging
import sys
import threading
import weakref
from collections import Counter
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..api.errors import first_line
from ..api.upstream import give_back_pinned
from .reading import main_memory

logger = logging.getLogger("cudaspeed")

# Windows pins half of the memory at most; ComfyUI takes 40 % of it there (`MAX_PINNED_MEMORY`, 0.33).
_SHARE, _SHARE_ON_WINDOWS = 0.45, 0.40


def most_pinned() -> int:
    """Bytes that may be pinned altogether; none where nobody knows how much memory there is."""
    memory = main_memory()
    share = _SHARE_ON_WINDOWS if sys.platform == "win32" else _SHARE
    return int(memory.total * share) if memory else 0


def block_bytes(size: int) -> int:
    """What torch's allocator takes for `size` bytes of pinned memory: the next power of two."""
    return 1 << max(0, size - 1).bit_length()


def _allocate(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    return torch.empty(tuple(shape), dtype=dtype, pin_memory=True)


class PinnedMemory:
    """All pinned memory of a process that it got here. Any thread may ask.

    `allocate` makes pinned tensors of a shape and type; `give_back` makes torch give back what it keeps of those that
    are gone, and tells whether it could; `most` is how many bytes there may be.
    """

    def __init__(
        self,
        allocate: Callable[[Sequence[int], torch.dtype], Tensor] = _allocate,
        give_back: Callable[[], bool] = give_back_pinned,
        most: Callable[[], int] = most_pinned,
    ) -> None:
        self._allocate, self._give_back, self._most = allocate, give_back, most
        self._lock = threading.Lock()
        self._used: list[tuple[weakref.ref[torch.UntypedStorage], int]] = []
        self._kept: Counter[int] = Counter()  # blocks of each size that torch keeps for whoever asks next

    def empty(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor | None:
        """A pinned tensor without values; None where that would be too much, or the driver allows none."""
        with self._lock:
            block = block_bytes(torch.Size(shape).numel() * dtype.itemsize)
            self._notice_the_dead()
            if not self._kept[block] and self._bytes() + block > self._most():
                self._clear()
                if self._bytes() + block > self._most():
                    logger.info("no pinned memory: %d MB are pinned, of %d at most", *self._megabytes())
                    return None
            try:
                tensor = self._allocate(shape, dtype)
            except RuntimeError as error:  # torch's own type for a lack of memory is one, too
                logger.info("no pinned memory: %s", first_line(error))
                return None
            self._kept[block] -= self._kept[block] > 0
            self._used.append((weakref.ref(tensor.untyped_storage()), block))
            return tensor

    def held_bytes(self) -> int:
        """What is pinned now, in use or kept by torch."""
        with self._lock:
            self._notice_the_dead()
            return self._bytes()

    def clear(self) -> int:
        """Give back what nobody uses; how many bytes that were."""
        with self._lock:
            self._notice_the_dead()
            return self._clear()

    def _clear(self) -> int:
        freed = sum(block * count for block, count in self._kept.items())
        if not freed or not self._give_back():
            return 0
        self._kept.clear()
        return freed

    def _notice_the_dead(self) -> None:
        dead = [block for storage, block in self._used if storage() is None]
        if dead:
            self._kept.update(dead)
            self._used = [(storage, block) for storage, block in self._used if storage() is not None]

    def _bytes(self) -> int:
        used = sum(block for _, block in self._used)
        return used + sum(block * count for block, count in self._kept.items())

    def _megabytes(self) -> tuple[int, int]:
        return self._bytes() >> 20, self._most() >> 20


PINNED = PinnedMemory()
"""Of this process."""
