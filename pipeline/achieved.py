"""What share of its peak a device achieved in our forwards lately: model FLOPs utilisation, as PaLM's authors (2022)
define it, of forwards only.

Only where both are known: the operations of the model's layers (models/operations.py), and the device's peak
(devices/peak_rates.py). Nothing is measured for it but what runs measure anyway.
"""

from __future__ import annotations

import time
from collections import deque

import torch

from ..kernels.timing import Clock

_LATELY = 5.0  # seconds
_MOST = 4096  # batches that are kept in mind


class Achieved:
    """Told by runs, on whatever thread, asked by whoever shows it. Times are by `clock`."""

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._batches: deque[tuple[float, torch.device, float, float]] = deque(maxlen=_MOST)

    def note(self, device: torch.device, at_peak: float, seconds: float) -> None:
        """A batch has ended that took so many `seconds`, and would have taken `at_peak` by the device's peak."""
        self._batches.append((self._clock(), device, at_peak, seconds))

    def share(self, device: torch.device) -> float | None:
        """Of the batches that ended there within the last 5 seconds, 0..1; None where there are none, or where it is
        more than all, so that something is not as it was taken to be."""
        since = self._clock() - _LATELY
        lately = [batch for batch in self._batches.copy() if batch[0] >= since and batch[1] == device]
        seconds = sum(seconds for *_, seconds in lately)
        share = sum(at_peak for _, _, at_peak, _ in lately) / seconds if seconds > 0 else None
        return share if share is not None and share <= 1 else None


ACHIEVED = Achieved()
"""In this process's runs."""
