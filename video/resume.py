"""Which frames of a film are to be computed, when segments of it are there: the same ones, from the same pixels, and
in the same groups, as if nothing had been there."""

from __future__ import annotations

import math
import zlib
from collections import deque
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from fractions import Fraction
from itertools import chain
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
    """What makes frames belong together: a segment begins every `segment_seconds`, wherever the frames stand; the
    engine takes `batch` frames at once; with `alpha` a film is as it begins."""

    segment_seconds: float
    batch: int
    alpha: bool


class Origin(NamedTuple):
    """Where a frame is from: the number of its `segment`, its own `number` in the film, how many frames of one size the
    engine had been given with it, and the CRC-32 of its pixels."""

    segment: int
    number: int
    in_run: int
    crc: int


class FramesLeft:
    """The frames of the film that `reader` has open, and that are not in `parts`.

    What comes of a frame may depend, in its last bits, on how many the engine is at: so a group of frames is computed
    as a whole, or not at all. Of a film with alpha the first frames decide how all of it is enlarged: they are computed
    again. `origins` has what the frames that were given are from, by their pts.
    """

    def __init__(self, reader: FilmReader, parts: Parts, grouping: Grouping) -> None:
        self._reader, self._parts = reader, parts
        self._batch, self._alpha = grouping.batch, grouping.alpha
        self._seconds = Fraction(grouping.segment_seconds).limit_denominator(1000)
        self._seen, self._before = reader, Losses()
        self._size: tuple[int, int] | None = None
        self.origins: dict[int, Origin] = {}

    @property
    def losses(self) -> Losses:
        """What of the film could not be read so far, by this run or those before."""
        if self._parts.is_whole():
            return self._parts.begun()[-1].losses
        now, before = self._seen.losses, self._before
        return Losses(now.damaged - before.damaged, now.retimed - before.retimed, now.missing)

    def items(self, to_pixels: ToPixels) -> Generator[ReadFrame, None, None]:
        """Once; to be closed before the film is."""
        if self._parts.is_whole():
            return
        tail = self._tail()
        if tail:
            done = self._parts.begun()
            with self._reader.again() as reader, closing(reader.sought(tail[0].pts)) as items:
                frames = _frames(items)
                held = self._as_known(frames, tail, to_pixels)
                if held:
                    self._seen, self._before = reader, reader.losses
                    number = sum(segment.frames for segment in done) - len(held)
                    groups = self._groups(chain(_emptied(held), frames), number, done[-1].in_run - len(held))
                    yield from self._needed(groups, to_pixels)
                    return
        with closing(self._reader.items()) as items:
            yield from self._needed(self._groups(_frames(items), 0, 0), to_pixels)

    def _tail(self) -> list[KnownFrame]:
        """The frames before the first that is missing, if a film can be gone on with from somewhere in it: if these are
        many enough, and no time had to be mended, which would depend on all before."""
        done, count = self._parts.begun(), max(_COMPARED, 2 * self._batch)
        if (
            not self._reader.can_seek
            or self._alpha
            or not done
            or done[-1].losses != Losses()
            or done[-1].in_run < count
        ):
            return []
        return self._parts.tail(count)

    def _as_known(self, frames: Iterator[Frame], tail: list[KnownFrame], to_pixels: ToPixels) -> deque[Frame] | None:
        """The last two groups of `tail`, if `frames`, from a seek on, has all of it as it was the first time: with
        frames that need others from before the seek, or times that are not those of the file, it has not."""
        held: deque[Frame] = deque(maxlen=2 * self._batch)
        frames = (frame for frame in frames if frame.pts >= tail[0].pts)
        for known in tail:
            frame = next(frames, None)
            if frame is None or known != (frame.pts, frame.duration, _crc(to_pixels(frame.picture))):
                return None
            held.append(frame)
        return held

    def _groups(self, frames: Iterator[Frame], number: int, in_run: int) -> Iterator[list[_Numbered]]:
        """As the engine takes them: so many at once, but for the last ones of a size."""
        group: list[_Numbered] = []
        for at, frame in enumerate(frames, number):
            if group and _size(frame) != _size(group[-1].frame):
                yield group
                group = []
            if self._size not in (None, _size(frame)):
                in_run = 0
            self._size = _size(frame)
            in_run += 1
            group.append(_Numbered(frame, at, in_run))
            if in_run % self._batch == 0:
                yield group
                group = []
        if group:
            yield group

    def _needed(self, groups: Iterator[list[_Numbered]], to_pixels: ToPixels) -> Iterator[ReadFrame]:
        before: list[_Numbered] = []
        given = False
        for group in groups:
            if group[0].in_run == 1:
                before, given = [], False
            if not self._is_needed(group):
                before = group
                continue
            # The plan is made for as many as are in flight: it must be the same where only few are left.
            short = group[-1].in_run % self._batch != 0
            for one in (*(before if short and not given else ()), *group):
                pixels = to_pixels(one.frame.picture)
                self.origins[one.frame.pts] = Origin(self._segment(one.frame), one.number, one.in_run, _crc(pixels))
                yield ReadFrame(pixels, one.frame.pts, one.frame.duration)
            before, given = [], True

    def _is_needed(self, group: list[_Numbered]) -> bool:
        if self._alpha and group[0].in_run <= self._batch + 1:
            return True
        return any(self._segment(one.frame) not in self._parts.found for one in group)

    def _segment(self, frame: Frame) -> int:
        facts = self._reader.facts
        return math.floor((frame.pts - self._reader.first.pts) * facts.time_base / self._seconds)


class _Numbered(NamedTuple):
    frame: Frame
    number: int
    in_run: int


def _frames(items: Iterator[Any]) -> Iterator[Frame]:
    return (item for item in items if isinstance(item, Frame))


def _emptied(held: deque[Frame]) -> Iterator[Frame]:
    while held:
        yield held.popleft()


def _size(frame: Frame) -> tuple[int, int]:
    return frame.picture.height, frame.picture.width


def _crc(pixels: NDArray[Any]) -> int:
    return zlib.crc32(np.ascontiguousarray(pixels).data)
