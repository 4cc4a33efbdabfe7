"""Films, frame by frame, with all packets between that are copied as they are."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from fractions import Fraction
from io import BytesIO
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from ..api.errors import BadFilmError
from .colour import ToPixels
from .deinterlace import Deinterlacer
from .facts import FilmFacts, FilmTags, Frame, Losses, PacketCount
from .open_film import OpenFilm
from .packets import count_packets
from .pixel_formats import has_alpha
from .side_data import display_matrix
from .timeline import Timeline
from .window import WHOLE, Cut, Window

if TYPE_CHECKING:
    from av.packet import Packet
    from av.stream import Stream
    from av.video.stream import VideoStream

_USUAL_RATE = Fraction(25)
_EARLY = Fraction(1, 4)  # second, and a frame, that a file may be shorter than it says: it need not be exact
_SLOWEST, _FASTEST = Fraction(1), Fraction(1000)  # frames a second that are believed
_APART = Fraction(10)  # seconds that sound may lie behind the pictures of its time in a file
_BACK = (Fraction(0), Fraction(1), Fraction(10))  # seconds before a window that a frame to begin with is looked for


class FilmReader:
    """The film in `file`, or the part of it that is in `window`, from `with` on: its `facts`, and its `covers`, encoded
    pictures by their stream's index. With `deinterlace`, interlaced frames come as whole pictures.

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
        self._rest: Iterator[Frame | Packet[Any]] = iter(())
        self._before: list[Packet[Any]] = []
        self._cover_packets: dict[int, Packet[Any]] = {}

    def __enter__(self) -> FilmReader:
        counted = self._counted
        if counted is None:
            with closing(OpenFilm(self._file)) as film:
                counted = count_packets(film.container, film.stream, Cut(self._window, film.time_base))
        self._film = OpenFilm(self._file)
        try:
            self._begin(counted)
        except BaseException:  # an interrupt, too: `__exit__` is not called for what never began
            self._close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._close()

    @property
    def losses(self) -> Losses:
        """What could not be read so far."""
        unread = self._film.unread
        missing = round(unread * self._rate) if unread > _EARLY + 1 / self._rate else 0
        return Losses(self._film.damaged, self._timeline.mended, missing)

    @property
    def notes(self) -> tuple[str, ...]:
        """What is to be said of the frames, once all are read, in sentences."""
        return (self._deinterlacer.note,) if self._deinterlacer.note else ()

    @property
    def others(self) -> tuple[Stream, ...]:
        """The streams that are not upscaled."""
        return self._film.others

    @property
    def tags(self) -> FilmTags:
        """What its file says of it in words."""
        stream, container = self._film.stream, self._film.container
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
            if self._film.is_cover(packet) or self._cut.takes(packet):
                yield packet
        self._before.clear()
        yield self._first
        for item in self._rest:
            if isinstance(item, Frame):
                yield self._placed(item)
            elif self._film.is_cover(item) or self._cut.takes(item):
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
        self._timeline = Timeline(self._film.time_base)
        self._film.seek(pts)  # where it is then shows by what comes
        yield from self._read()

    def beside(self) -> Generator[Packet[Any], None, None]:
        """Instead of `items`: what lies between the frames, none of which is decoded any more."""
        for packet in self._before:
            if self._film.is_cover(packet) or self._cut.takes(packet):
                yield packet
        self._before.clear()
        for packet in self._film.packets():
            if packet is None or packet.stream.index == self._film.stream.index:
                if packet is not None and self._cut.is_past(packet.dts, _APART):
                    return
            elif packet.size and (self._film.is_cover(packet) or self._cut.takes(packet)):
                yield packet

    def _begin(self, counted: PacketCount) -> None:
        self._cut = Cut(self._window, self._film.time_base)
        self._rate = _rate_of(self._film.stream, counted)
        self.covers: dict[int, bytes] = {}
        found = self._find_first()
        if found is None:
            lost = f" ({counted.packets} packets cannot be decoded)" if counted.packets else ""
            where = "" if self._window == WHOLE else f" in the part that begins at {float(self._window.start):g} s"
            raise BadFilmError(f"{self._film.path}: has no frame that can be decoded{where}{lost}")
        self._cut.begin(found.pts)
        self._first = self._placed(found)
        picture = self._first.picture
        self.facts = FilmFacts(
            path=self._film.path,
            size=(picture.height, picture.width),
            pixel_format=picture.format.name,
            time_base=self._film.time_base,
            rate=self._rate,
            count=counted,
            pixel_aspect=self._film.stream.sample_aspect_ratio or Fraction(1),
            rotation=picture.rotation,
            display_matrix=display_matrix(picture),
            interlaced=picture.interlaced_frame,
        )

    def _find_first(self) -> Frame | None:
        """The first frame of the window. What is decoded begins at a frame before it that needs no other, which is not
        always where a file is said to have one: times of decoding and of showing differ."""
        if self._cut.first <= 0:
            return self._first_from_here(reached=True)
        self._cover_packets = self._film.first_covers()
        for back in _BACK:
            found = None
            if self._film.seek(self._cut.first - round(back / self._film.time_base)):
                found = self._first_from_here(reached=False)
            if found is not None:
                return found
            self._film.forget_pictures()
        self._close()
        self._film = OpenFilm(self._file)
        return self._first_from_here(reached=True)

    def _close(self) -> None:
        """All packets are let go of before."""
        self._rest = iter(())
        self._before.clear()
        self._cover_packets.clear()
        self._film.close()

    def _first_from_here(self, reached: bool) -> Frame | None:
        """The first frame of the window, from where the file stands on; None, if there is none, and, unless it is known
        to be `reached`, if decoding began behind the start of the window, so that it may not be the first."""
        self._film.damaged, self._is_over, self._before = 0, False, [*self._cover_packets.values()]
        self.covers = {index: bytes(packet) for index, packet in self._cover_packets.items()}
        self._timeline, self._deinterlacer = Timeline(self._film.time_base), Deinterlacer(self._deinterlace)
        self._rest = self._deinterlacer.through(self._read())
        for item in self._rest:
            if isinstance(item, Frame):
                reached = reached or item.pts <= self._cut.first
                if not reached:
                    return None
                if self._cut.has(item.pts):
                    return item
            elif not self._film.is_cover(item):
                self._before.append(item)
            elif item.stream.index not in self.covers:
                self._before.append(item)
                self.covers[item.stream.index] = bytes(item)
        return None

    def _placed(self, frame: Frame) -> Frame:
        return Frame(frame.picture, *self._cut.place(frame.pts, frame.duration))

    def _read(self) -> Iterator[Frame | Packet[Any]]:
        """Packets, and frames from where the decoder began on, which may be before the window."""
        for packet in self._film.packets():
            if packet is not None and packet.stream.index != self._film.stream.index:  # `stream_index` is 0 at the end
                if packet.size:
                    yield packet
            elif not self._is_over:
                self._is_over = packet is not None and self._cut.is_past(packet.dts)
                yield from self._decode(None if self._is_over else packet)
            elif packet is not None and self._cut.is_past(packet.dts, _APART):
                return

    def _decode(self, packet: Packet[Any] | None) -> Iterator[Frame]:
        for picture in self._film.pictures(packet):
            nominal = round(1 / (self._rate * self._film.time_base))
            duration = picture.duration or nominal
            pts = self._timeline.place(picture.pts, duration)
            if self._cut.is_past(pts):
                self._is_over = True
                return
            yield Frame(picture, pts, duration)


def _rate_of(stream: VideoStream, counted: PacketCount) -> Fraction:
    """Frames a second: as the packets come where they come irregularly, else as the file has it."""
    if counted.variable and counted.seconds:
        rate = ((counted.packets - 1) / counted.seconds).limit_denominator(1001)
    else:
        rate = stream.average_rate or stream.guessed_rate or _USUAL_RATE
    return min(max(rate, _SLOWEST), _FASTEST)
