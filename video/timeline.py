"""The times of packets and frames, made to increase where a file has them missing, equal or running backwards."""

from __future__ import annotations

import math
from fractions import Fraction

_LEAP = 1  # second: further back is where a recording began anew, and all that follows is as late
_APART = Fraction(1, 1000)  # second, of what is put after another: containers that count milliseconds keep it apart


class Timeline:
    """Times in ticks of `time_base` seconds, each later than the one before. `mended` counts those that had to be
    changed, but for those that only follow a leap backwards: these keep their distances. With `step` 0 times may be
    equal."""

    def __init__(self, time_base: Fraction, step: int = 1) -> None:
        self._step, self._apart = step, max(step, math.ceil(step * _APART / time_base))
        self._leap = max(1, int(_LEAP / time_base))
        self._last: int | None = None
        self._next = self._shift = 0
        self.mended = 0

    def place(self, time: int | None, duration: int) -> int:
        """When something stands that says `time`, or does not say, and lasts `duration` ticks, or 0 if unknown."""
        at = self._next if time is None else time + self._shift
        wrong = time is None
        if self._last is not None and at < self._last + self._step:
            wrong = True
            if self._last - at > self._leap:
                self._shift += self._next - at
                at = self._next
            else:
                at = self._last + self._apart
        self.mended += wrong
        self._last, self._next = at, at + max(1, duration)
        return at
