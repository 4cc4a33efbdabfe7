"""A film's file, open: which of its streams is the film, its packets as far as they can be read, and their pictures."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from fractions import Fraction
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..api.errors import BadFilmError
from .pyav import load_av

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.packet import Packet
    from av.stream import Stream
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

_MOST_FAILURES = 100  # of reading on, one after the other, before the rest of a file counts as gone
_USUAL_TICK = Fraction(1, 1000)
_FEW = 32  # packets
_WITH_ALPHA = {"vp8": "libvpx", "vp9": "libvpx-vp9"}  # FFmpeg's own decoders leave alpha out


class OpenFilm:
    """The film in `file`, and its `others`: the streams that are not upscaled. `damaged` counts the packets and
    pictures that could not be read; `unread` are the seconds that the file should go on after its last packet, once
    that is read.

    The film is the stream that players show, and no cover picture. Raises `BadFilmError` where there is none, and
    `MissingLibraryError`. Packets must be let go of before it is closed.
    """

    def __init__(self, file: Path | BytesIO) -> None:
        self._av, self._file = load_av(), file
        self.path = file if isinstance(file, Path) else Path("film in memory")
        self.damaged, self.unread = 0, Fraction(0)
        self.container = self._open()
        try:
            self.stream = self._find()
            self.time_base = self.stream.time_base or _USUAL_TICK
            self.others: tuple[Stream, ...] = tuple(
                one for one in self.container.streams if one.index != self.stream.index
            )
            self._decoder = self._decoder_of(self.stream)
        except BaseException:  # an interrupt, too: nobody else closes it
            self.container.close()
            raise

    def close(self) -> None:
        self.container.close()

    def seek(self, pts: int) -> bool:
        """Go to a key frame at `pts` or before. False, where the file cannot be gone to and fro in."""
        try:
            self.container.seek(pts, stream=self.stream)
        except self._av.error.FFmpegError:
            return False
        return True

    def packets(self) -> Iterator[Packet[Any] | None]:
        """All that can be read; at the end an empty one, or None, after which the decoder gives what it still has."""
        streams = [stream for stream in self.container.streams if stream.type != "attachment"]
        failures, end = 0, Fraction(0)
        while failures < _MOST_FAILURES:
            try:
                for packet in self.container.demux(streams):
                    failures = 0
                    end = max(end, _end_of(packet))
                    yield packet
                self.unread = self._seconds_after(end)
                return
            except self._av.error.FFmpegError:  # what follows may be whole
                failures += 1
                self.damaged += failures == 1
        self.unread = self._seconds_after(end)
        yield None

    def pictures(self, packet: Packet[Any] | None) -> Iterator[VideoFrame]:
        """What a packet of the film gives; at its end, None or an empty one, what there still is."""
        try:
            pictures = self._decoder.decode(packet)
        except self._av.error.EOFError:  # it was told of the end before
            return
        except self._av.error.FFmpegError:
            self.damaged += 1
            return
        for picture in pictures:
            self.damaged += picture.is_corrupt
            yield picture

    def forget_pictures(self) -> None:
        """Those that are being decoded: reading goes on elsewhere."""
        if self._decoder is not self.stream:  # else seeking did it
            self._decoder.flush_buffers()

    def is_cover(self, packet: Packet[Any]) -> bool:
        return bool(packet.stream.disposition & self._av.stream.Disposition.attached_pic)

    def first_covers(self) -> dict[int, Packet[Any]]:
        """A packet by its stream's index. They lie at the start of a file, and are not met again by who begins
        elsewhere."""
        first = (packet for packet in islice(self.packets(), _FEW) if packet is not None and packet.size)
        return {packet.stream.index: packet for packet in first if self.is_cover(packet)}

    def _open(self) -> InputContainer:
        if isinstance(self._file, Path) and os.path.exists(self._file) and not os.path.isfile(self._file):  # noqa: PTH110, PTH113  # raise nothing
            raise BadFilmError(f"{self.path}: is a folder, a pipe or a device, and no file; copy the film into one")
        # every reader with a place of its own in it; the bytes are shared
        file = str(self._file) if isinstance(self._file, Path) else BytesIO(self._file.getvalue())
        try:
            return self._av.open(file, "r", metadata_errors="replace")
        except self._av.error.FFmpegError as error:
            if isinstance(error, OSError) and error.errno != errno.EIO:  # which files that are cut off give
                raise BadFilmError(f"{self.path}: cannot be read: {error.strerror}") from error
            raise BadFilmError(f"{self.path}: is no film, or is damaged from its start: {error.strerror}") from error

    def _find(self) -> VideoStream:
        """The stream to upscale: one that is shown by default, else the first."""
        flags = self._av.stream.Disposition
        films = [stream for stream in self.container.streams.video if not stream.disposition & flags.attached_pic]
        if not films:
            covers = "only a cover picture" if self.container.streams.video else "no pictures"
            raise BadFilmError(f"{self.path}: has {covers}, so there is nothing to upscale")
        return next((stream for stream in films if stream.disposition & flags.default), films[0])

    def _decoder_of(self, stream: VideoStream) -> Any:
        """What decodes the stream's packets: with alpha, where there is some."""
        tags = {name.lower(): value for name, value in stream.metadata.items()}
        name = _WITH_ALPHA.get(stream.codec_context.name) if tags.get("alpha_mode") == "1" else None
        if name is None or name not in self._av.codecs_available:
            stream.thread_type = "AUTO"  # type: ignore[assignment]  # PyAV takes names, too
            return stream
        decoder = self._av.CodecContext.create(name, "r")
        decoder.extradata = stream.codec_context.extradata
        return decoder

    def _seconds_after(self, end: Fraction) -> Fraction:
        """How many there would be after `end`, in seconds, if the file were as long as it says."""
        start, duration = self.container.start_time or 0, self.container.duration or 0
        return max(Fraction(0), Fraction(start + duration, self._av.time_base) - end)


def _end_of(packet: Packet[Any]) -> Fraction:
    """Where it ends, in seconds; 0 if it does not say."""
    return Fraction(0) if packet.pts is None else (packet.pts + (packet.duration or 0)) * packet.time_base
