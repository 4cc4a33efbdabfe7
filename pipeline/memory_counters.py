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

from ..api.errors import first_line

logger = logging.getLogger("cudaspeed")


def resident_bytes() -> int | None:
    """The process's resident set; None where the system does not tell, which is said once."""
    try:
        return _process(os.getpid()).memory_info().rss
    except (psutil.Error, OSError, ValueError, NotImplementedError) as error:
        _say_once(f"the system does not tell what memory this process holds ({first_line(error)})")
        return None


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
        ask = getattr(self._interface, counter, None)
        try:
            if ask is None:
                raise NotImplementedError(f"torch has no {counter} of it")
            return int(ask(self._device))
        except Exception as error:  # backends outside of torch answer, or not, in their own ways
            _say_once(f"what {self._device.type} holds at most is not told ({first_line(error)})")
            return None


@functools.lru_cache(maxsize=16)
def _say_once(text: str) -> None:
    logger.info("%s: what runs take is estimated, not measured", text)
