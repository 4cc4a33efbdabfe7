"""What is asked of the system and of torch: how much memory this process holds by now, and held at most.

Nobody's counters are reset: inside a host they belong to everyone in the process.
"""

from __future__ import annotations

import functools
import logging
import os
import sys

import psutil
import torch

from ..devices.reading import bytes_told

logger = logging.getLogger("cudaspeed")


def resident_bytes() -> int | None:
    """The process's resident set; None where the system does not tell, which is said once."""
    told = bytes_told(lambda: _process(os.getpid()).memory_info().rss)
    if told is None:
        _tell_unmeasured("the system does not tell what memory this process holds")
    return told


def most_resident_bytes() -> int:
    """The most that the resident set ever was (getrusage(2)); 0 where that is not told."""
    try:
        import resource  # which Windows has not
    except ImportError:
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


@functools.lru_cache(maxsize=1)
def _process(number: int) -> psutil.Process:
    return psutil.Process(number)  # which looks up when it began: once, not every 20 ms


class AllocatorPeak:
    """The most that torch's allocator of a device gives out at once, over what it has given out when this is made: what
    lies there besides, frames and results, does not count.

    None of its statistics is reset, so that it is told only where the most ever became more meanwhile.
    """

    def __init__(self, device: torch.device) -> None:
        self._device, self._interface = device, getattr(torch, device.type, None)
        self._before, self._most = self._ask("memory_allocated"), self._ask("max_memory_allocated")

    def grown(self) -> int | None:
        """Bytes; None where it cannot be known: the most was earlier, or the device has no such counters, which is said
        once."""
        most = self._ask("max_memory_allocated")
        if self._before is None or self._most is None or most is None or most <= self._most:
            return None
        return most - self._before

    def _ask(self, counter: str) -> int | None:
        told = bytes_told(lambda: getattr(self._interface, counter)(self._device))
        if told is None:
            _tell_unmeasured(f"torch does not tell what {self._device.type} holds at most")
        return told


@functools.cache
def _tell_unmeasured(text: str) -> None:
    logger.warning("%s: what runs take is estimated, not measured", text)
