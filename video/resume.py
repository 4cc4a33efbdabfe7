"""Which frames of a film are to be computed, when segments of it are there: the same ones, from the same pixels, and
in the same runs of the engine, as if nothing had been there."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from fractions import Fraction
from itertools import dropwhile
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .facts import Frame, Losses
from .frames import ReadFrame
from .reader import FilmReader
from .records import KnownFrame

if TYPE_CHECKING:
    from av.video.frame import VideoFrame

    from .parts import Parts

_COMPARED = 25  # frames at least that must come as they came the first time, before those after a seek are trusted

ToPixels = Callable[["VideoFrame"], NDArray[Any]]


class Grouping(NamedTuple):
    """What makes frames belong together: a segment begins every `segment_seconds`, wherever the frames stand, and is a
    run of the engine, which takes `batch` frames at once; with `alpha` a film is as it begins."""

    segment_seconds: float
    batch: int
    alpha: bool


class Origin(NamedTuple):
    """Where a frame is from: the number of its `segment`, its own `number` in the film, and the CRC-32 of its
    pixels."""

    segment: int
    number: int
    crc: int


class FramesLeft:
    """The frames of the film that `reader` has open, and that are not in `parts`.

    What comes of a frame may depend, in its last bits, on those before it: so a segment is computed as a whole, in a
    run of its own, or not at all. Of a film with alpha the first frames decide how all of it is enlarged: they are
    computed again. `origins` has what the frames that were given are from, by their pts.
    """

    def __init__(self, reader: FilmReader, parts: Parts, grouping: Grouping) -> None:
        self._reader, self._parts = reader, parts
        self._decide = grouping.batch + 1 if grouping.alpha else 0  # so many of the first frames
        self._seconds = exact_seconds(grouping.segment_seconds)
        self._seen, self._before = reader, Losses()
        self.origins: dict[int, Origin] = {}

    @property
    def losses(self) -> Losses:
        """What of the film could not be read so far, by this run or those before."""
        known = [segment.losses for segment in self._parts.segments.values()]
        now, before = self._seen.losses, self._before
        mine = Losses(now.damaged - before.damaged, now.retimed - before.retimed, now.missing)
        # segments count all that was met up to them, but for those that were made alone
        met = known if self._parts.is_whole() else [mine, *known]
        return Losses(*(max(getattr(one, name) for one in met) for name in ("damaged", "retimed", "missing")))

    def items(self, to_pixels: ToPixels) -> Generator[ReadFrame, None, None]:
        """Once; to be closed before the film is."""
        if self._parts.is_whole():
            return
        tail = self._tail()
        if tail:
            with self._reader.again() as reader, closing(reader.sought(tail[0].pts)) as items:
                frames = frames_of(items)
                if self._come_as_known(frames, tail, to_pixels):
                    self._seen, self._before = reader, reader.losses
                    yield from self._needed(frames, sum(segment.frames for segment in self._parts.begun()), to_pixels)
                    return
        with closing(self._reader.items()) as items:
            yield from self._needed(frames_of(items), 0, to_pixels)

    def _tail(self) -> list[KnownFrame]:
        """The frames before the first that is missing, if a film can be gone on with from somewhere in it: if these are
        many enough, and no time had to be mended, which would depend on all before."""
        done = self._parts.begun()
        if not self._reader.can_seek or self._decide or not done or done[-1].losses != Losses():
            return []
        tail = self._parts.tail(_COMPARED)
        return tail if len(tail) == _COMPARED else []

    def _come_as_known(self, frames: Iterator[Frame], tail: list[KnownFrame], to_pixels: ToPixels) -> bool:
        """Whether `frames`, from a seek on, has all of `tail` as it was the first time, and stands behind it: with
        frames that need others from before the seek, or times that are not those of the file, it has not."""
        found = dropwhile(lambda frame: frame.pts < tail[0].pts, frames)
        for known in tail:
            frame = next(found, None)
            if frame is None or known != (frame.pts, frame.duration, pixel_sum(to_pixels(frame.picture))):
                return False
        return True

    def _needed(self, frames: Iterator[Frame], first: int, to_pixels: ToPixels) -> Iterator[ReadFrame]:
        """Of `frames`, the film's from the `first`-th on, those that are to be computed."""
        for number, frame in enumerate(frames, first):
            segment = self._segment(frame)
            if segment not in self._parts.found or number < self._decide:
                pixels = to_pixels(frame.picture)
                self.origins[frame.pts] = Origin(segment, number, pixel_sum(pixels))
                yield ReadFrame(pixels, frame.pts, frame.duration, segment=segment)

    def _segment(self, frame: Frame) -> int:
        return segment_at(frame.pts - self._reader.first.pts, self._reader.facts.time_base, self._seconds)

    @property
    def last_known(self) -> int:
        """The last segment that is known of."""
        return max(self._parts.found, default=0)


def exact_seconds(segment_seconds: float) -> Fraction:
    """The length of a segment."""
    return Fraction(segment_seconds).limit_denominator(1000)


def segment_at(ticks: int, time_base: Fraction, seconds: Fraction) -> int:
    """The segment that a frame is of which stands so many ticks after the film's first."""
    return math.floor(ticks * time_base / seconds)


def frames_of(items: Iterator[Any]) -> Iterator[Frame]:
    """Those among what a reader gives."""
    return (item for item in items if isinstance(item, Frame))


def pixel_sum(pixels: NDArray[Any]) -> int:
    """The CRC-32 of a frame's pixels."""
    return zlib.crc32(np.ascontiguousarray(pixels).data)
