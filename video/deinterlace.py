"""Interlaced films: each of their frames holds two half pictures, of two moments, in turn line by line. FFmpeg's bwdif
makes one whole picture of each frame."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from .facts import Frame
from .pyav import load_av

if TYPE_CHECKING:
    from av.video.frame import VideoFrame

AS_IT_IS = (
    "the film is interlaced, and upscaled as it is: its lines will show where things move; --deinterlace makes whole "
    "pictures of them"
)
_PROGRESSIVE = "no frame of the film says that it is interlaced: --deinterlace left all of them as they are"
# A frame comes of each, by the order of fields that the frame says; what says that it is progressive stays as it is.
_BWDIF = "mode=send_frame:parity=auto:deint=interlaced"
_LEAST = (4, 3)  # (height, width) that bwdif takes


class Deinterlacer:
    """Between a film's decoder and what becomes of its frames: with `wanted`, interlaced ones are made whole pictures;
    without, they are only noticed. As many frames come out as go in, with their times, tags and bits."""

    def __init__(self, wanted: bool) -> None:
        self._wanted, self._graph = wanted, _Graph()
        self._interlaced = 0

    @property
    def note(self) -> str:
        """A sentence on the frames that went through; "" where all is as one would have it."""
        if self._wanted:
            return "" if self._interlaced else _PROGRESSIVE
        return AS_IT_IS if self._interlaced else ""

    def through(self, items: Iterator[Any]) -> Iterator[Any]:
        """`items`, a reader's, in order, but that packets may come a frame earlier: bwdif looks one frame ahead."""
        for item in items:
            if not isinstance(item, Frame):
                yield item
                continue
            self._interlaced += item.picture.interlaced_frame
            if self._wanted:
                yield from self._graph.through(item)
            else:
                yield item
        yield from self._graph.flush()


class _Graph:
    """bwdif for frames of one size and pixel format after the other."""

    def __init__(self) -> None:
        self._waiting: deque[Frame] = deque()
        self._kind: tuple[int, int, str] | None = None
        self._graph: Any = None

    def through(self, frame: Frame) -> Iterator[Frame]:
        picture = frame.picture
        kind = picture.height, picture.width, picture.format.name
        if kind != self._kind:
            yield from self.flush()
            self._kind, self._graph = kind, _bwdif(picture)
        if self._graph is None:
            yield frame
            return
        self._waiting.append(frame)
        self._graph.push(picture)
        yield from self._made()

    def flush(self) -> Iterator[Frame]:
        """What bwdif still has."""
        if self._graph is not None:
            self._graph.push(None)
            yield from self._made()
        self._graph = self._kind = None

    def _made(self) -> Iterator[Frame]:
        av = load_av()
        while True:
            try:
                picture = self._graph.pull()
            except (av.error.BlockingIOError, av.error.EOFError):
                return
            given = self._waiting.popleft()  # with the time that the reader gave it
            yield replace(given, picture=picture) if given.picture.interlaced_frame else given


def _bwdif(picture: VideoFrame) -> Any:
    """A graph for frames as `picture` is; None for such as bwdif does not take."""
    if picture.height < _LEAST[0] or picture.width < _LEAST[1]:
        return None
    av = load_av()
    graph = av.filter.Graph()
    source = graph.add_buffer(
        width=picture.width, height=picture.height, format=picture.format.name, time_base=picture.time_base
    )
    bwdif, sink = graph.add("bwdif", _BWDIF), graph.add("buffersink")
    source.link_to(bwdif)
    bwdif.link_to(sink)
    graph.configure()
    return graph
