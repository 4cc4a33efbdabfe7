"""A part of a film, cut exactly to its frames: which frames and packets are in it, and where these then stand."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from av.packet import Packet


@dataclass(frozen=True)
class Window:
    """The part of a film from `start` seconds on, by the times in its file, and for `duration` seconds (None: to its
    end). The first frame that begins in it is its first, and stands at 0."""

    start: Fraction = Fraction(0)
    duration: Fraction | None = None

    @property
    def end(self) -> Fraction | None:
        """In seconds, as the start."""
        return None if self.duration is None else self.start + self.duration

    def ticks(self, time_base: Fraction) -> tuple[int, int | None]:
        """The first tick that is in it, and the first one behind it. Rounded down, as ComfyUI's own nodes do."""
        end = self.end
        return math.floor(self.start / time_base), None if end is None else math.floor(end / time_base)


WHOLE = Window()
"""All of a film, whose frames and packets stand where its file says."""


class Cut:
    """A window in work, on a film that counts in ticks of `time_base`. `first` is the first tick that is in it, `end`
    the one behind it."""

    def __init__(self, window: Window, time_base: Fraction) -> None:
        self._window, self._time_base, self._shift = window, time_base, 0
        self.first, self.end = window.ticks(time_base)

    @property
    def seconds(self) -> Fraction:
        """Where the film's file has what now stands at 0."""
        return self._shift * self._time_base

    def begin(self, pts: int) -> None:
        """The first frame that is in it stands at `pts` in the file."""
        self._shift = 0 if self._window == WHOLE else pts

    def has(self, pts: int) -> bool:
        """Whether a frame that begins then is in it."""
        if self._window == WHOLE:
            return True  # some films begin before 0
        return pts >= self.first and not self.is_past(pts)

    def is_past(self, time: int | None, more: Fraction = Fraction(0)) -> bool:
        """Whether that tick lies behind it, by `more` seconds."""
        return self.end is not None and time is not None and time >= self.end + more / self._time_base

    def place(self, pts: int, duration: int) -> tuple[int, int]:
        """Where a frame that is in it stands, and how long it lasts: not beyond the end."""
        if self.end is not None:
            duration = min(duration, self.end - pts)
        return pts - self._shift, duration

    def takes(self, packet: Packet[Any]) -> bool:
        """Whether a packet of another stream is in it, and if so, have it stand where it belongs. Sound begins with the
        first packet that begins after the first frame; a subtitle that is being shown then is shown from there."""
        time = packet.dts if packet.pts is None else packet.pts
        if self._window == WHOLE or time is None:
            return True
        start = round(self.seconds / packet.time_base)
        end = None if self._window.end is None else math.ceil(self._window.end / packet.time_base)
        late = start - time
        if packet.stream.type == "subtitle" and 0 < late < (packet.duration or 0):
            packet.duration = (packet.duration or 0) - late
            packet.pts = packet.dts = time = start
        if time < start or (end is not None and time >= end):
            return False
        packet.pts = None if packet.pts is None else packet.pts - start
        packet.dts = None if packet.dts is None else packet.dts - start
        return True

    def chapters(self, given: list[Any]) -> list[Any]:
        """Those that are in it, as PyAV has them: from their start in it to their end in it."""
        if self._window == WHOLE:
            return given
        kept: list[Any] = []
        for chapter in given:
            ticks = chapter["time_base"]
            end = chapter["end"] * ticks if self._window.end is None else min(chapter["end"] * ticks, self._window.end)
            start = max(chapter["start"] * ticks, self.seconds)
            if start < end:
                at, until = (round((time - self.seconds) / ticks) for time in (start, end))
                kept.append({**chapter, "start": at, "end": until})
        return kept
