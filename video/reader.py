"""Films, frame by frame, with all packets between that are copied as they are."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from fractions import Fraction
from io import BytesIO
from itertools import islice
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
from .window import WHOLE, Cut, Window

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.packet import Packet
    from av.stream import Stream
    from av.video.stream import VideoStream

_MOST_FAILURES = 100  # of reading on, one after the other, before the rest of a file counts as gone
_USUAL_TICK = Fraction(1, 1000)
_USUAL_RATE = Fraction(25)
_EARLY = Fraction(1, 4)  # second, and a frame, that a file may be shorter than it says: it need not be exact
_SLOWEST, _FASTEST = Fraction(1), Fraction(1000)  # frames a second that are believed
_FEW = 32  # packets
_APART = Fraction(10)  # seconds that sound may lie behind the pictures of its time in a file
_BACK = (Fraction(0), Fraction(1), Fraction(10))  # seconds before a window that a frame to begin with is looked for
_WITH_ALPHA = {"vp8": "libvpx", "vp9": "libvpx-vp9"}  # FFmpeg's own decoders leave alpha out


class FilmReader:
    """The film in `file`, or the part of it that is in `window`, from `with` on: its `facts`, the streams that are not
    upscaled, `others`, and the `covers` among these, encoded pictures by their stream's index. With `deinterlace`,
    interlaced frames come as whole pictures.

    The film is the stream that players show, and no cover picture. Raises `BadFilmError` where there is none, or none
    of its frames can be decoded, and `MissingLibraryError`. Packets that were `counted` before are not again.
    """

    facts: FilmFacts

    def __init__(
        self,
        file: Path | BytesIO,
        window: Window = WHOLE,
        deinterlace: bool = False,
        counted: PacketCount | None = None,
    ) -> None:
        self._file, self._window, self._deinterlace, self._counted = file, window, deinterlace, counted
        self._av, self._path = load_av(), file if isinstance(file, Path) else Path("film in memory")
        self._damaged = self._missing = 0
        self._rest: Iterator[Frame | Packet[Any]] = iter(())
        self._before: list[Packet[Any]] = []
        self._cover_packets: dict[int, Packet[Any]] = {}

    def __enter__(self) -> FilmReader:
        counted = self._counted
        if counted is None:
            with self._open() as container:
                film = self._film(container)
                counted = count_packets(container, film, Cut(self._window, film.time_base or _USUAL_TICK))
        self._open_film()
        try:
            self._begin(counted)
        except BaseException:  # an interrupt, too: `__exit__` is not called for what never began
            self._let_go()
            self._container.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._let_go()
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
        chapters = self._cut.chapters(container.chapters())
        return FilmTags(container.metadata, stream.metadata, stream.disposition, chapters)

    @property
    def first(self) -> Frame:
        """The first frame, which `items` gives, too."""
        return self._first

    @property
    def begins(self) -> Fraction:
        """The second in the file that stands at 0."""
        return self._cut.seconds

    @property
    def window(self) -> Window:
        """The part of the file that it reads."""
        return self._window

    @property
    def file(self) -> Path | BytesIO:
        """What it reads."""
        return self._file

    def again(self) -> FilmReader:
        """The same film, to be opened once more."""
        return FilmReader(self._file, self._window, self._deinterlace, self.facts.count)

    def items(self) -> Generator[Frame | Packet[Any], None, None]:
        """Once: frames in the order in which they are shown, between the packets of `others` as these lie in the
        file."""
        for packet in self._before:
            if self._is_cover(packet) or self._cut.takes(packet):
                yield packet
        self._before.clear()
        yield self._first
        for item in self._rest:
            if isinstance(item, Frame):
                yield self._placed(item)
            elif self._is_cover(item) or self._cut.takes(item):
                yield item

    def to_pixels(self, alpha: bool) -> Callable[[Any], NDArray[Any]]:
        """What makes pixels of a frame's picture, with `alpha` if the film has some."""
        return ToPixels(alpha and has_alpha(self.facts.pixel_format))

    @property
    def can_seek(self) -> bool:
        """Whether frames come as they do from the start where reading begins at one of them: interlaced ones are made
        whole by those before, too."""
        return self._window == WHOLE and not self._deinterlace

    def sought(self, pts: int) -> Generator[Frame | Packet[Any], None, None]:
        """Instead of `items`, of a film that `can_seek`: from a key frame on that stands at `pts` or before, if the
        file leads there."""
        self._timeline = Timeline(self._time_base)
        with suppress(self._av.error.FFmpegError):  # where it is then shows by what comes
            self._container.seek(pts, stream=self._stream)
        yield from self._read()

    def beside(self) -> Generator[Packet[Any], None, None]:
        """Instead of `items`: what lies between the frames, none of which is decoded any more."""
        for packet in self._before:
            if self._is_cover(packet) or self._cut.takes(packet):
                yield packet
        self._before.clear()
        for packet in self._packets():
            if packet is None or packet.stream.index == self._stream.index:
                if packet is not None and self._cut.is_past(packet.dts, _APART):
                    return
            elif packet.size and (self._is_cover(packet) or self._cut.takes(packet)):
                yield packet

    def _open(self) -> InputContainer:
        if isinstance(self._file, Path) and os.path.exists(self._file) and not os.path.isfile(self._file):  # noqa: PTH110, PTH113  # raise nothing
            raise BadFilmError(f"{self._path}: is a folder, a pipe or a device, and no file; copy the film into one")
        # every reader with a place of its own in it; the bytes are shared
        file = str(self._file) if isinstance(self._file, Path) else BytesIO(self._file.getvalue())
        try:
            return self._av.open(file, "r", metadata_errors="replace")
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

    def _open_film(self) -> None:
        self._container = self._open()
        try:
            self._stream = stream = self._film(self._container)
            self.others: tuple[Stream, ...] = tuple(one for one in self._container.streams if one.index != stream.index)
            self._decoder = self._decoder_of(stream)
        except BaseException:  # an interrupt, too: nobody else closes it
            self._container.close()
            raise

    def _begin(self, counted: PacketCount) -> None:
        stream = self._stream
        self._time_base = stream.time_base or _USUAL_TICK
        self._cut = Cut(self._window, self._time_base)
        self._rate = _rate_of(stream, counted)
        self.covers: dict[int, bytes] = {}
        found = self._find_first()
        if found is None:
            lost = f" ({counted.packets} packets cannot be decoded)" if counted.packets else ""
            where = "" if self._window == WHOLE else f" in the part that begins at {float(self._window.start):g} s"
            raise BadFilmError(f"{self._path}: has no frame that can be decoded{where}{lost}")
        self._cut.begin(found.pts)
        self._first = self._placed(found)
        picture = self._first.picture
        self.facts = FilmFacts(
            path=self._path,
            size=(picture.height, picture.width),
            pixel_format=picture.format.name,
            time_base=self._time_base,
            rate=self._rate,
            count=counted,
            pixel_aspect=self._stream.sample_aspect_ratio or Fraction(1),
            rotation=picture.rotation,
            display_matrix=display_matrix(picture),
            interlaced=picture.interlaced_frame,
        )

    def _find_first(self) -> Frame | None:
        """The first frame of the window. What is decoded begins at a frame before it that needs no other, which is not
        always where a file is said to have one: times of decoding and of showing differ."""
        if self._cut.first <= 0:
            return self._first_from_here(reached=True)
        self._find_covers()
        for back in _BACK:
            with suppress(self._av.error.FFmpegError):  # not every file can be gone to and fro in
                self._container.seek(self._cut.first - round(back / self._time_base), stream=self._stream)
                found = self._first_from_here(reached=False)
                if found is not None:
                    return found
            if self._decoder is not self._stream:
                self._decoder.flush_buffers()
        self._let_go()
        self._container.close()
        self._open_film()
        return self._first_from_here(reached=True)

    def _let_go(self) -> None:
        """Of all packets, before their file is closed."""
        self._rest = iter(())
        self._before.clear()
        self._cover_packets.clear()

    def _find_covers(self) -> None:
        """They lie at the start of a file, and are not met again by who begins elsewhere."""
        for packet in islice(self._packets(), _FEW):
            if packet is not None and packet.size and self._is_cover(packet):
                self._cover_packets[packet.stream.index] = packet

    def _first_from_here(self, reached: bool) -> Frame | None:
        """The first frame of the window, from where the file stands on; None, if there is none, and, unless it is known
        to be `reached`, if decoding began behind the start of the window, so that it may not be the first."""
        self._damaged, self._is_over, self._before = 0, False, [*self._cover_packets.values()]
        self.covers = {index: bytes(packet) for index, packet in self._cover_packets.items()}
        self._timeline, self._deinterlacer = Timeline(self._time_base), Deinterlacer(self._deinterlace)
        self._rest = self._deinterlacer.through(self._read())
        for item in self._rest:
            if isinstance(item, Frame):
                reached = reached or item.pts <= self._cut.first
                if not reached:
                    return None
                if self._cut.has(item.pts):
                    return item
            elif not self._is_cover(item):
                self._before.append(item)
            elif item.stream.index not in self.covers:
                self._before.append(item)
                self.covers[item.stream.index] = bytes(item)
        return None

    def _is_cover(self, packet: Packet[Any]) -> bool:
        return bool(packet.stream.disposition & self._av.stream.Disposition.attached_pic)

    def _placed(self, frame: Frame) -> Frame:
        return Frame(frame.picture, *self._cut.place(frame.pts, frame.duration))

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
        """Packets, and frames from where the decoder began on, which may be before the window."""
        for packet in self._packets():
            if packet is not None and packet.stream.index != self._stream.index:  # `stream_index` is 0 at the end
                if packet.size:
                    yield packet
            elif not self._is_over:
                self._is_over = packet is not None and self._cut.is_past(packet.dts)
                yield from self._decode(None if self._is_over else packet)
            elif packet is not None and self._cut.is_past(packet.dts, _APART):
                return

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
            if self._cut.is_past(pts):
                self._is_over = True
                return
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
