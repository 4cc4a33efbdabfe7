"""Films, frame by frame, with all packets between that are copied as they are."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from ..api.errors import BadFilmError
from .facts import FilmFacts, Losses, PacketCount
from .packets import count_packets
from .pyav import load_av
from .side_data import display_matrix
from .timeline import Timeline

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.packet import Packet
    from av.stream import Stream
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

_MOST_FAILURES = 100  # of reading on, one after the other, before the rest of a file counts as gone
_USUAL_RATE = Fraction(25)
_SLOWEST, _FASTEST = Fraction(1), Fraction(1000)  # frames a second that are believed
_WITH_ALPHA = {"vp8": "libvpx", "vp9": "libvpx-vp9"}  # FFmpeg's own decoders leave alpha out


@dataclass(frozen=True)
class Frame:
    """A decoded frame, which stands at `pts` and lasts `duration` ticks of the film's time base; 0: unknown."""

    picture: VideoFrame
    pts: int
    duration: int


class FilmReader:
    """The film in the file `path`, from `with` on: its `facts`, the streams that are not upscaled, `others`, and the
    `covers` among these, encoded pictures by their stream's index.

    The film is the stream that players show, and no cover picture. Raises `BadFilmError` where there is none, or none
    of its frames can be decoded, and `MissingLibraryError`. Packets that were `counted` before are not again.
    """

    facts: FilmFacts

    def __init__(self, path: Path, counted: PacketCount | None = None) -> None:
        self._path, self._counted, self._av = path, counted, load_av()
        self._damaged = 0

    def __enter__(self) -> FilmReader:
        counted = self._counted
        if counted is None:
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
        return Losses(self._damaged, self._timeline.mended)

    @property
    def container(self) -> InputContainer:
        """The open file, for its tags and chapters."""
        return self._container

    @property
    def stream(self) -> VideoStream:
        """The film's, for its tags and disposition."""
        return self._stream

    @property
    def first(self) -> Frame:
        """The first frame, which `items` gives, too."""
        return self._first

    def items(self) -> Generator[Frame | Packet[Any], None, None]:
        """Once: frames in the order in which they are shown, between the packets of `others` as these lie in the
        file."""
        yield from self._before
        self._before.clear()
        yield self._first
        yield from self._rest

    def sought(self, pts: int) -> Generator[Frame | Packet[Any], None, None]:
        """Instead of `items`: from a key frame on that stands at `pts` or before, if the file leads there."""
        self._timeline = Timeline(self._time_base)
        with suppress(self._av.error.FFmpegError):  # where it is then shows by what comes
            self._container.seek(pts, stream=self._stream)
        yield from self._read()

    def beside(self) -> Generator[Packet[Any], None, None]:
        """Instead of `items`: what lies between the frames, none of which is decoded any more."""
        yield from self._before
        self._before.clear()
        for packet in self._packets():
            if packet is not None and packet.stream.index != self._stream.index and packet.size:
                yield packet

    def _open(self) -> InputContainer:
        try:
            return self._av.open(str(self._path), "r", metadata_errors="replace")
        except self._av.error.FFmpegError as error:
            if isinstance(error, OSError):
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
        self._rest = self._read()
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
        failures = 0
        while failures < _MOST_FAILURES:
            try:
                for packet in self._container.demux(streams):
                    failures = 0
                    yield packet
                return
            except self._av.error.FFmpegError:  # what follows may be whole
                failures += 1
                self._damaged += failures == 1
        yield None

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


def _rate_of(stream: VideoStream, counted: PacketCount) -> Fraction:
    """Frames a second: as the packets come where they come irregularly, else as the file has it."""
    if counted.variable and counted.seconds:
        rate = ((counted.packets - 1) / counted.seconds).limit_denominator(1001)
    else:
        rate = stream.average_rate or stream.guessed_rate or _USUAL_RATE
    return min(max(rate, _SLOWEST), _FASTEST)
