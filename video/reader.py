"""Films, frame by frame, with all packets between that are copied as they are."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from ..api.errors import BadFilmError
from .colour import ToPixels
from .deinterlace import Deinterlacer
from .facts import FilmFacts, FilmTags, Frame, Losses, PacketCount
from .packets import count_packets
from .pixel_formats import has_alpha
from .pyav import load_av
from .side_data import display_matrix
from .timeline import Timeline

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.packet import Packet
    from av.stream import Stream
    from av.video.stream import VideoStream

_MOST_FAILURES = 100  # of reading on, one after the other, before the rest of a file counts as gone
_USUAL_RATE = Fraction(25)
_EARLY = Fraction(1, 4)  # second, and a frame, that a file may be shorter than it says: it need not be exact
_SLOWEST, _FASTEST = Fraction(1), Fraction(1000)  # frames a second that are believed
_WITH_ALPHA = {"vp8": "libvpx", "vp9": "libvpx-vp9"}  # FFmpeg's own decoders leave alpha out


class FilmReader:
    """The film in the file `path`, from `with` on: its `facts`, the streams that are not upscaled, `others`, and the
    `covers` among these, encoded pictures by their stream's index. With `deinterlace`, interlaced frames
    come as whole pictures.

    The film is the stream that players show, and no cover picture. Raises `BadFilmError` where there is none, or none
    of its frames can be decoded, and `MissingLibraryError`.
    """

    facts: FilmFacts

    def __init__(self, path: Path, deinterlace: bool = False) -> None:
        self._path, self._av = path, load_av()
        self._deinterlacer = Deinterlacer(deinterlace)
        self._damaged = self._missing = 0

    def __enter__(self) -> FilmReader:
        with self._open() as container:
            counted = count_packets(container, self._film(container))
        self._container = self._open()
        try:
            self._begin(counted)
        except BaseException:  # an interrupt, too: `__exit__` is not called for what never began
            self._container.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._container.close()

    @property
    def losses(self) -> Losses:
        """What could not be read so far."""
        return Losses(self._damaged, self._timeline.mended, self._missing)

    @property
    def notes(self) -> tuple[str, ...]:
        """What is to be said of the frames, once all are read, in sentences."""
        return (self._deinterlacer.note,) if self._deinterlacer.note else ()

    @property
    def tags(self) -> FilmTags:
        """What its file says of it in words."""
        stream, container = self._stream, self._container
        return FilmTags(container.metadata, stream.metadata, stream.disposition, container.chapters())

    @property
    def first(self) -> Frame:
        """The first frame, which `items` gives, too."""
        return self._first

    def items(self) -> Iterator[Frame | Packet[Any]]:
        """Once: frames in the order in which they are shown, between the packets of `others` as these lie in the
        file."""
        yield from self._before
        self._before.clear()
        yield self._first
        yield from self._rest

    def to_pixels(self, alpha: bool) -> Callable[[Any], NDArray[Any]]:
        """What makes pixels of a frame's picture, with `alpha` if the film has some."""
        return ToPixels(alpha and has_alpha(self.facts.pixel_format))

    def _open(self) -> InputContainer:
        if os.path.exists(self._path) and not os.path.isfile(self._path):  # noqa: PTH110, PTH113  # raise nothing
            raise BadFilmError(f"{self._path}: is a folder, a pipe or a device, and no file; copy the film into one")
        try:
            return self._av.open(str(self._path), "r", metadata_errors="replace")
        except self._av.error.FFmpegError as error:
            if isinstance(error, OSError) and error.errno != errno.EIO:  # which files that are cut off give
                raise BadFilmError(f"{self._path}: cannot be read: {error.strerror}") from error
            raise BadFilmError(f"{self._path}: is no film, or is damaged from its start: {error.strerror}") from error

    def _film(self, container: InputContainer) -> VideoStream:
        """The stream to upscale: one that is shown by default, else the first."""
        flags = self._av.stream.Disposition
        films = [stream for stream in container.streams.video if not stream.disposition & flags.attached_pic]
        if not films:
            covers = "only a cover picture" if container.streams.video else "no pictures"
            raise BadFilmError(f"{self._path}: has {covers}, so there is nothing to upscale")
        return next((stream for stream in films if stream.disposition & flags.default), films[0])

    def _begin(self, counted: PacketCount) -> None:
        self._stream = stream = self._film(self._container)
        self.others: tuple[Stream, ...] = tuple(one for one in self._container.streams if one.index != stream.index)
        self._time_base = stream.time_base or Fraction(1, 1000)
        self._timeline = Timeline(self._time_base)
        self._rate = _rate_of(stream, counted)
        self._decoder = self._decoder_of(stream)
        self._rest = self._deinterlacer.through(self._read())
        self._before: list[Packet[Any]] = []
        self.covers: dict[int, bytes] = {}
        for item in self._rest:
            if isinstance(item, Frame):
                self._first = item
                break
            self._before.append(item)
            if item.stream.disposition & self._av.stream.Disposition.attached_pic:
                self.covers[item.stream.index] = bytes(item)
        else:
            lost = f" ({counted.packets} packets cannot be decoded)" if counted.packets else ""
            raise BadFilmError(f"{self._path}: has no frame that can be decoded{lost}")
        picture = self._first.picture
        self.facts = FilmFacts(
            path=self._path,
            size=(picture.height, picture.width),
            pixel_format=picture.format.name,
            time_base=self._time_base,
            rate=self._rate,
            count=counted,
            pixel_aspect=stream.sample_aspect_ratio or Fraction(1),
            rotation=picture.rotation,
            display_matrix=display_matrix(picture),
            interlaced=picture.interlaced_frame,
        )

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

    def _read(self) -> Iterator[Frame | Packet[Any]]:
        for packet in self._packets():
            if packet is not None and packet.stream.index != self._stream.index:  # `stream_index` is 0 at the end
                if packet.size:
                    yield packet
            else:
                yield from self._decode(packet)

    def _packets(self) -> Iterator[Packet[Any] | None]:
        """All that can be read; at the end an empty one, or None, after which the decoder gives what it still has."""
        streams = [stream for stream in self._container.streams if stream.type != "attachment"]
        failures, end = 0, Fraction(0)
        while failures < _MOST_FAILURES:
            try:
                for packet in self._container.demux(streams):
                    failures = 0
                    end = max(end, _end_of(packet))
                    yield packet
                self._missing = self._frames_after(end)
                return
            except self._av.error.FFmpegError:  # what follows may be whole
                failures += 1
                self._damaged += failures == 1
        self._missing = self._frames_after(end)
        yield None

    def _frames_after(self, end: Fraction) -> int:
        """About how many there would be after `end`, in seconds, if the file were as long as it says."""
        container = self._container
        said = Fraction((container.start_time or 0) + (container.duration or 0), self._av.time_base)
        return round((said - end) * self._rate) if said - end > _EARLY + 1 / self._rate else 0

    def _decode(self, packet: Packet[Any] | None) -> Iterator[Frame]:
        try:
            pictures = self._decoder.decode(packet)
        except self._av.error.EOFError:  # it was told of the end before
            return
        except self._av.error.FFmpegError:
            self._damaged += 1
            return
        for picture in pictures:
            self._damaged += picture.is_corrupt
            nominal = round(1 / (self._rate * self._time_base))
            duration = picture.duration or nominal
            pts = self._timeline.place(picture.pts, duration)
            yield Frame(picture, pts, duration)


def _end_of(packet: Packet[Any]) -> Fraction:
    """Where it ends, in seconds; 0 if it does not say."""
    return Fraction(0) if packet.pts is None else (packet.pts + (packet.duration or 0)) * packet.time_base


def _rate_of(stream: VideoStream, counted: PacketCount) -> Fraction:
    """Frames a second: as the packets come where they come irregularly, else as the file has it."""
    if counted.variable and counted.seconds:
        rate = ((counted.packets - 1) / counted.seconds).limit_denominator(1001)
    else:
        rate = stream.average_rate or stream.guessed_rate or _USUAL_RATE
    return min(max(rate, _SLOWEST), _FASTEST)
