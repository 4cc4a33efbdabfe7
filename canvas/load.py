"""The load of the machine, as the page's monitor shows it (`web/js/monitor.js`).

It is looked at when a page asks, and never else.
"""

from __future__ import annotations

import threading
import time
from typing import Any

from ..devices.usage import DeviceUsage, UsageReader
from ..kernels.timing import Clock
from ..pipeline.achieved import ACHIEVED, Achieved

_SHARED = 0.2  # seconds: within them, several pages are told the same
_LONG_AGO = 15.0  # seconds: the processor's share since then is not its load now
_DIGITS = 3  # of shares

Told = dict[str, Any]


class Load:
    """Asked by routes, on any thread."""

    def __init__(
        self, reader: UsageReader | None = None, achieved: Achieved = ACHIEVED, clock: Clock = time.monotonic
    ) -> None:
        self._reader, self._achieved, self._clock = reader or UsageReader(), achieved, clock
        self._lock = threading.Lock()
        self._told: Told = {}
        self._when = -_LONG_AGO

    def told(self) -> Told:
        """{"cpu": share, "ram": {"used": bytes, "total": bytes}, "devices": [{"name", "used", "total", "busy",
        "mfu"}]}: shares are 0..1, and what nobody tells is not there. While a driver takes its time over the last
        question, what it said before."""
        if not self._lock.acquire(blocking=False):
            return self._told
        try:
            now = self._clock()
            if now - self._when >= _SHARED:
                recent = now - self._when < _LONG_AGO
                self._told, self._when = self._look(recent), now
            return self._told
        finally:
            self._lock.release()

    def _look(self, recent: bool) -> Told:
        cpu, ram = self._reader.cpu(), self._reader.ram()
        return _there(
            cpu=_rounded(cpu) if recent else None,
            ram={"used": ram.total - ram.free, "total": ram.total} if ram else None,
            devices=[self._device(usage) for usage in self._reader.devices()],
        )

    def _device(self, usage: DeviceUsage) -> Told:
        mfu = self._achieved.share(usage.device) if usage.device else None
        of_memory = {"used": usage.used, "total": usage.total}
        return _there(name=usage.name, **of_memory, busy=_rounded(usage.busy), mfu=_rounded(mfu))


def _there(**values: Any) -> Told:
    return {name: value for name, value in values.items() if value is not None}


def _rounded(share: float | None) -> float | None:
    return None if share is None else round(share, _DIGITS)
