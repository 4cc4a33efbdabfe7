"""A look through the packets of a film, none of which is decoded: how many frames are to come, and how regularly."""

from __future__ import annotations

import heapq
from contextlib import suppress
from fractions import Fraction
from typing import TYPE_CHECKING

from .facts import PacketCount

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.stream import VideoStream

    from .window import Cut

_REORDERED = 32  # packets at most that frames are apart from the order in which they are decoded
_BEFORE, _TICK = Fraction(10), Fraction(1, 1000)  # seconds
_JITTER = 0.01  # of the time between frames that a file's rounding may change


class _Gaps:
    """The least and the most time between frames whose times come in decoding order."""

    def __init__(self) -> None:
        self._waiting: list[int] = []
        self._last: int | None = None
        self.first: int | None = None
        self.least: int | None = None
        self.most = 0

    def add(self, time: int) -> None:
        heapq.heappush(self._waiting, time)
        if len(self._waiting) > _REORDERED:
            self._pass(heapq.heappop(self._waiting))

    def end(self) -> int:
        """From the first frame to the last."""
        while self._waiting:
            self._pass(heapq.heappop(self._waiting))
        return 0 if self._last is None or self.first is None else self._last - self.first

    def _pass(self, time: int) -> None:
        if self._last is not None:
            gap = time - self._last
            self.least = gap if self.least is None else min(self.least, gap)
            self.most = max(self.most, gap)
        else:
            self.first = time
        self._last = time


def count_packets(container: InputContainer, stream: VideoStream, cut: Cut) -> PacketCount:
    """All packets of `stream` that are in `cut`, which is read to its end, or to where it cannot be read: what reads it
    next meets that, too."""
    from av.error import FFmpegError

    gaps, packets = _Gaps(), 0
    try:
        # earlier, as files are gone to by the times of decoding, and not all exactly
        first = cut.first - round(_BEFORE / (stream.time_base or _TICK))
        if first > 0:
            with suppress(FFmpegError):  # else from the beginning
                container.seek(first, stream=stream)
        for packet in container.demux(stream):
            if cut.is_past(packet.dts):  # and so is whatever is decoded later
                break
            time = packet.dts if packet.pts is None else packet.pts
            if packet.size and (time is None or cut.has(time)):
                packets += 1
                if packet.pts is not None:
                    gaps.add(packet.pts)
    except FFmpegError:
        pass
    ticks = gaps.end()
    time_base = stream.time_base or Fraction(1, 1000)
    least = gaps.most if gaps.least is None else gaps.least
    variable = gaps.most - least > max(2, _JITTER * ticks / max(1, packets - 1))
    return PacketCount(packets, ticks * time_base, variable)
