"""What a device's memory is, as its driver and torch's allocator tell, and what is no answer.

Drivers raise, leave questions out, and tell nonsense. None of that is an error here, and none of it is a zero: it is
None, which says that nobody knows.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import psutil
import torch

from ..api.errors import first_line

logger = logging.getLogger("cudaspeed")

_MOST = 1 << 50  # bytes; whoever tells more has not counted


@dataclass(frozen=True)
class DeviceMemory:
    """Bytes of a device: `total`; `free`, which its driver can still give; `unused`, which torch's allocator holds of
    the rest and has no use for."""

    total: int
    free: int
    unused: int = 0

    @property
    def available(self) -> int:
        """What tensors can still get."""
        return self.free + self.unused


def answer(ask: Callable[[], Any]) -> Any:
    """What `ask` returns; None where it raises, because what it asks is not there, or by the driver's fault."""
    try:
        return ask()
    except Exception as error:  # a driver may raise anything, and no answer of one is worth a picture
        logger.debug("no answer: %s: %s", type(error).__name__, first_line(error))
        return None


def bytes_told(ask: Callable[[], Any]) -> int | None:
    """A number of bytes that `ask` returns; None where that is no such number."""
    told = answer(ask)
    return told if isinstance(told, int) and not isinstance(told, bool) and 0 <= told < _MOST else None


def by_allocator(interface: Any, device: torch.device) -> DeviceMemory | None:
    """Where torch has its own allocator for the kind, with the interface of `torch.cuda`.

    What is free is never more than what torch has left of the device: Intel's drivers go on telling what was free
    before torch took its memory (pytorch's issue 161381), and on integrated GPUs do not tell at all (159728). Where the
    driver does not tell, that alone is the answer, as in ComfyUI for Intel (`comfy/model_management.py`, 0.33).
    """
    reserved = bytes_told(lambda: interface.memory_reserved(device))
    allocated = bytes_told(lambda: interface.memory_allocated(device))
    held = reserved or 0
    unused = held - allocated if allocated is not None and allocated <= held else 0
    pair = answer(lambda: tuple(interface.mem_get_info(device))) or ()
    free, total = (bytes_told(lambda number=number: number) for number in pair) if len(pair) == 2 else (None, None)
    if not total or free is None or free > total:
        total = bytes_told(lambda: interface.get_device_properties(device).total_memory)
        if not total or reserved is None:
            return None
        free = total
    return DeviceMemory(total, max(0, min(free, total - held)), unused)


def of_metal(interface: Any, device: torch.device) -> DeviceMemory | None:
    """Of Apple's GPUs, which have no memory of their own: Metal recommends how much of the main memory to take
    (`recommendedMaxWorkingSetSize`), of which torch counts what the driver has given it. No more is free than in main
    memory."""
    total = bytes_told(lambda: interface.recommended_max_memory())
    taken = bytes_told(lambda: interface.driver_allocated_memory())
    if not total or taken is None:
        return None
    used = bytes_told(lambda: interface.current_allocated_memory())
    unused = taken - used if used is not None and used <= taken else 0
    free, host = max(0, total - taken), main_memory()
    return DeviceMemory(total, min(free, host.free) if host else free, unused)


def main_memory() -> DeviceMemory | None:
    """What the operating system has; what containers and limits leave of it is not asked here."""
    memory = answer(psutil.virtual_memory)
    total, free = bytes_told(lambda: memory.total), bytes_told(lambda: memory.available)
    return DeviceMemory(total, free) if total and free is not None and free <= total else None


def of_processor(interface: Any, device: torch.device) -> DeviceMemory | None:
    """Of CPUs, which have none of their own either."""
    return main_memory()


def untold(interface: Any, device: torch.device) -> DeviceMemory | None:
    """Where nothing tells: torch-directml knows how busy each engine of a GPU is, and no bytes."""
    return None
