"""One segment of a film by itself, wherever the others are made: the same that comes of it where all are made in turn.

Whoever has all segments of a film joins them (`segmented.py`), and makes anew what lacks. So a segment that cannot be
trusted is none at all: where frames do not come from the middle of a file as they do from its start, say.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice, pairwise
from typing import Any

from ..api.errors import CudaspeedError
from .facts import Frame, Losses
from .frames import ReadFrame
from .open_film import OpenFilm
from .reader import FilmReader
from .resume import Origin, ToPixels, exact_seconds, frames_of, pixel_sum, segment_at

_COMPARED = 25  # frames that must come alike from two places before, if there are so many
_EARLIER = (Fraction(0), Fraction(1), Fraction(10))  # seconds before it that an earlier key frame is looked for


class NotAloneError(CudaspeedError, RuntimeError):
    """A segment cannot be made by itself."""


@dataclass(frozen=True)
class SegmentPlace:
    """Where the `index`-th segment of a film lies: its `frames` frames are the film's from the `first`-th on, and stand
    from `start` on, in ticks. `last`: the film ends with it."""

    index: int
    first: int
    frames: int
    start: int
    last: bool


def places_of(reader: FilmReader, segment_seconds: float) -> list[SegmentPlace]:
    """The segments of the film that `reader` has open, by the times of its packets, which are not decoded. None where
    these do not tell: one has no time, two have the same, they run back, the first is not that of the first frame."""
    if not reader.can_seek:
        return []
    with closing(OpenFilm(reader.file)) as film:
        packets = [(packet.pts, packet.dts) for packet in film.container.demux(film.stream) if packet.size]
    known = sorted(time for time, _ in packets if time is not None)
    decoded = [time for _, time in packets if time is not None]
    if len(known) < len(packets) or len({*known}) < len(known) or known[:1] != [reader.first.pts]:
        return []
    if any(after <= before for before, after in pairwise(decoded)):
        return []
    seconds, time_base = exact_seconds(segment_seconds), reader.facts.time_base
    found: list[SegmentPlace] = []
    first = 0
    for number in range(1, len(known) + 1):
        index = segment_at(known[first] - known[0], time_base, seconds)
        if number == len(known) or segment_at(known[number] - known[0], time_base, seconds) != index:
            found.append(SegmentPlace(index, first, number - first, known[first], number == len(known)))
            first = number
    return found


class SegmentFrames:
    """The frames of one segment, at `place`, of the film that `reader` has open. `origins`, `losses` and `last_known`
    are what a `SegmentWriter` asks for."""

    def __init__(self, reader: FilmReader, place: SegmentPlace, segment_seconds: float) -> None:
        self._reader, self._place, self._seconds = reader, place, exact_seconds(segment_seconds)
        self.origins: dict[int, Origin] = {}
        self.losses = Losses()
        self.last_known = place.index if place.last else place.index + 1

    def items(self, to_pixels: ToPixels) -> Generator[ReadFrame, None, None]:
        """Once. Raises `NotAloneError` where they are not those that all of the film would have."""
        place, count, damaged = self._place, 0, 0
        earlier = self._sums_from_earlier(to_pixels)
        with self._reader.again() as reader, closing(self._from(reader, place.start)) as items:
            # to the film's end where it is the last: only there it is known whether the file goes on as it says
            for frame in frames_of(items) if place.last else islice(frames_of(items), place.frames):
                if not count:
                    damaged = reader.losses.damaged  # before it, of frames that need others before them
                if self._segment(frame) != place.index:  # a packet had no picture, or times run back
                    raise NotAloneError(f"frame {place.first + count} stands in another segment")
                pixels = to_pixels(frame.picture)
                crc = pixel_sum(pixels)
                if earlier and earlier.pop(0) != (frame.pts, frame.duration, crc):
                    raise NotAloneError(f"frame {place.first + count} depends on where reading begins")
                self.origins[frame.pts] = Origin(place.index, place.first + count, crc)
                count += 1
                yield ReadFrame(pixels, frame.pts, frame.duration, segment=place.index)
            met = reader.losses
        if count != place.frames or met.damaged > damaged or met.retimed:
            raise NotAloneError(f"{count} of {place.frames} frames can be decoded as their packets are")
        self.losses = Losses(missing=met.missing if place.last else 0)

    def _segment(self, frame: Frame) -> int:
        return segment_at(frame.pts - self._reader.first.pts, self._reader.facts.time_base, self._seconds)

    def _from(self, reader: FilmReader, before: int) -> Generator[Any, None, None]:
        """What `reader` has from the segment's first frame on, read from a key frame on that lies before a tick."""
        start, reached = self._place.start, False
        if before <= self._reader.first.pts:
            with closing(reader.items()) as items:
                yield from (item for item in items if not isinstance(item, Frame) or item.pts >= start)
            return
        with closing(reader.sought(before)) as items:
            for item in items:
                if isinstance(item, Frame):
                    reached = reached or item.pts <= start
                    if not reached:
                        raise NotAloneError("the file leads to no key frame before it")
                    if item.pts >= start:
                        yield item

    def _sums_from_earlier(self, to_pixels: ToPixels) -> list[tuple[int, int, int]]:
        """The first frames as they come from an earlier key frame; none where the segment is the film's first."""
        place, first = self._place, self._reader.first.pts
        if place.start == first:
            return []
        begins = self._begins(place.start)
        earlier = next((tick for tick in self._earlier(begins) if self._begins(tick) < begins), first)
        with self._reader.again() as reader, closing(self._from(reader, earlier)) as items:
            few = islice(frames_of(items), min(_COMPARED, place.frames))
            return [(frame.pts, frame.duration, pixel_sum(to_pixels(frame.picture))) for frame in few]

    def _earlier(self, begins: int) -> Iterator[int]:
        """Ticks from which the key frame before the one that reading begins at may be found."""
        for seconds in _EARLIER:
            yield begins - 1 - round(seconds / self._reader.facts.time_base)

    def _begins(self, before: int) -> int:
        """Where the first frame stands that comes when it is read from a key frame before this tick."""
        if before <= self._reader.first.pts:
            return self._reader.first.pts
        with self._reader.again() as reader, closing(reader.sought(before)) as items:
            return next((frame.pts for frame in frames_of(items)), before)
