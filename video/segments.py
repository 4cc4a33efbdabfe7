"""Frames encoded in segments, each a file of its own, so that what is done stays done."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..api.errors import OutputError
from ..storage.files import sha256_of
from .colour import FromPixels
from .encoding import Encoding
from .formats import FilmFormat
from .pyav import load_av
from .records import KnownFrame, KnownPacket, Segment, Times
from .writer import padded

if TYPE_CHECKING:
    from av.packet import Packet

    from .alone import SegmentFrames
    from .parts import Parts
    from .resume import FramesLeft

_CONTAINER = "matroska"  # can be read up to where it was written, whatever happened then


@dataclass(frozen=True)
class Unfinished:
    """A segment whose end was not reached, in the file `path`; it begins with the `first`-th frame of the film, and
    `packets` tells when its frames are shown."""

    path: Path
    first: int
    packets: list[KnownPacket]


class SegmentWriter:
    """The frames of a film, encoded as `planned` into segments of `parts`, each from a key frame on. `left` knows which
    segment a frame is of. Used by one thread; on an interrupt what is open is closed, and is `unfinished`.

    Raises `OutputError`, and `OSError` where a file cannot be written.
    """

    def __init__(self, parts: Parts, planned: FilmFormat, left: FramesLeft | SegmentFrames) -> None:
        self._parts, self._left = parts, left
        self._planned = replace(planned, ending=".mkv")
        self._open: _OpenSegment | None = None
        self._from_pixels = FromPixels(planned.pixel_format, planned.colour)
        self.unfinished: Unfinished | None = None

    def __enter__(self) -> SegmentWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if self._open is None:
            return
        try:
            if isinstance(error, KeyboardInterrupt):
                with suppress(Exception):  # it is for looking at only
                    self._open.close()
                    self.unfinished = Unfinished(self._open.path, self._first, self._open.packets)
        finally:  # also where it takes somebody too long
            self._open.abandon()

    def write(self, pixels: NDArray[np.float32], pts: int, duration: int) -> None:
        """The next frame [H, W, C] of 0..1, at `pts` and for `duration` ticks of the film's time base. One of a segment
        that is there already, computed because a film is as it begins, goes no further."""
        origin = self._left.origins.pop(pts)
        index = origin.segment
        if index in self._parts.found:
            return
        if self._open is not None and self._open.index != index:
            self._keep(last=False)
        if self._open is None:
            self._open = _OpenSegment(self._parts.path(index).with_suffix(".mkv.new"), self._planned, index)
            self._first = origin.number
        frame = self._from_pixels(padded(pixels, self._planned.stored))
        frame.pts, frame.duration, frame.time_base = pts, duration, self._planned.time_base
        self._open.write(frame)
        self._open.frames.append(KnownFrame(pts, duration, origin.crc))

    def copy(self, packet: Packet[Any]) -> None:
        """Nothing: what is copied comes in when segments are joined."""

    def finish(self) -> None:
        """All frames are there."""
        if self._open is not None:  # which may lie before others that are there already
            self._keep(last=self._open.index >= self._left.last_known)

    def _keep(self, last: bool) -> None:
        done = self._open
        assert done is not None
        done.close()
        segment = Segment(
            index=done.index,
            first=self._first,
            frames=len(done.frames),
            losses=self._left.losses,
            last=last,
            bytes=done.path.stat().st_size,
            sha256=sha256_of(done.path),
        )
        if len(done.packets) != len(done.frames):
            raise OutputError(f"{self._planned.encoder.name} made {len(done.packets)} of {len(done.frames)} frames")
        self._parts.keep(done.path, segment, Times(done.frames, done.packets))
        self._open = None


class _OpenSegment:
    """A segment that grows in the file `path`."""

    def __init__(self, path: Path, planned: FilmFormat, index: int) -> None:
        self.path, self.index, self._av = path, index, load_av()
        self.frames: list[KnownFrame] = []
        self.packets: list[KnownPacket] = []
        self._file = path.open("wb")
        self._container = self._av.open(self._file, "w", format=_CONTAINER)
        stream = self._container.add_stream(planned.encoder.name, rate=planned.rate, options=dict(planned.options))
        planned.set_up(stream.codec_context)
        self._encoding = Encoding(stream)
        self._closed = False

    def write(self, frame: Any) -> None:
        self._guarded(lambda: self._mux(self._encoding.packets_of(frame)))

    def close(self) -> None:
        """All of it is on the disk when this returns."""
        self._guarded(lambda: self._mux(self._encoding.rest()))
        self._closed = True
        self._guarded(self._container.close)
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()

    def abandon(self) -> None:
        """Whatever became of it, nothing is open any more."""
        with suppress(Exception):  # why is known
            if not self._closed:
                self._container.close()
        with suppress(OSError):
            self._file.close()

    def _mux(self, packets: list[Packet[Any]]) -> None:
        for packet in packets:
            assert packet.pts is not None
            self.packets.append(KnownPacket(packet.pts, packet.duration or 0))
            self._container.mux(packet)

    def _guarded(self, work: Any) -> None:
        try:
            work()
        except self._av.error.FFmpegError as error:
            if isinstance(error, OSError):
                raise
            raise OutputError(f"the film cannot be encoded: {error}") from error
