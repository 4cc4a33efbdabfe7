"""Films are written: frames encoded one by one, and what is copied beside them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import suppress
from types import MappingProxyType, TracebackType
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from ..api.errors import OutputError
from .colour import FromPixels
from .copies import Copier, CopyPlan
from .encoders import CONTAINERS
from .encoding import Encoding
from .formats import FilmFormat
from .pyav import load_av

if TYPE_CHECKING:
    from av.container import OutputContainer
    from av.packet import Packet
    from av.video.stream import VideoStream

    from .inputs import Original

# Of a container, written anew; of a stream, counted by the program that wrote it, and no longer true.
NOT_COPIED = frozenset(("major_brand", "minor_version", "compatible_brands", "encoder"))
_COUNTED = ("bps", "duration", "number_of_frames", "number_of_bytes", "_statistics", "encoder", "source_id")


class FilmWriter:
    """A film that is written into `file` from `with` on, as `planned` and `copies` say, with the tags, chapters and the
    turn of the one that `reader` has open, and with more `tags`. Used by one thread; it has no `notes`. Raises
    `OutputError` where it cannot be written.

    With `encoded`, what decoders are told first (b"": nothing), its frames are there as packets, encoded as planned.
    """

    notes: tuple[str, ...] = ()

    def __init__(
        self,
        file: BinaryIO,
        reader: Original,
        planned: FilmFormat,
        copies: CopyPlan,
        tags: Mapping[str, str] = MappingProxyType({}),
        encoded: bytes | None = None,
    ) -> None:
        self._av, self._file, self._reader, self._tags = load_av(), file, reader, tags
        self._format, self._copies, self._encoded = planned, copies, encoded
        self._finished = False
        self._from_pixels = FromPixels(planned.pixel_format, planned.colour)

    def __enter__(self) -> FilmWriter:
        try:
            self._container = open_output(self._file, self._format.ending, self._tags)
            self._stream = self._add_film()
            self._encoding = Encoding(self._stream)
            self._copier = Copier(self._container, self._reader, self._copies, self._format.ending)
            given = self._reader.tags
            self._container.metadata.update({**_without(given.of_file, NOT_COPIED), **self._tags})
            if given.chapters:
                self._container.set_chapters([*given.chapters])
            self._container.start_encoding()
        except (self._av.error.FFmpegError, ValueError) as error:
            raise OutputError(f"the film cannot be begun: {error}") from error
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if not self._finished:
            with suppress(Exception):  # what is written goes, and why is known
                self._container.close()

    def finish(self) -> None:
        """All frames and packets are there: the film is whole when this returns."""
        self._guarded(self._flush)
        self._finished = True  # the end is written once, whatever comes of it
        self._guarded(self._container.close)

    def write(self, pixels: NDArray[np.float32], pts: int, duration: int) -> None:
        """The next frame [H, W, C] of 0..1, at `pts` and for `duration` ticks of the film's time base."""
        frame = self._from_pixels(padded(pixels, self._format.stored))
        frame.pts, frame.duration, frame.time_base = pts, duration, self._format.time_base
        self._guarded(lambda: self._container.mux(self._encoding.packets_of(frame)))

    def put(self, packet: Packet[Any]) -> None:
        """The film's next packet, with its times."""
        packet.stream = self._stream
        self._guarded(lambda: self._container.mux(packet))

    def copy(self, packet: Packet[Any]) -> None:
        """A packet of another stream of the film's file."""
        self._guarded(lambda: self._copier.copy(packet))

    def _add_film(self) -> VideoStream:
        planned, given = self._format, self._reader.tags
        stream: Any = self._container.add_stream(planned.encoder.name, rate=planned.rate, options=dict(planned.options))
        planned.set_up(stream.codec_context)
        if self._reader.facts.display_matrix:
            stream.set_display_matrix(self._reader.facts.display_matrix)
        stream.metadata.update({name: value for name, value in given.of_stream.items() if not _is_counted(name)})
        if planned.has_alpha:
            stream.metadata["alpha_mode"] = "1"
        else:
            stream.metadata.pop("alpha_mode", None)
            stream.metadata.pop("ALPHA_MODE", None)
        stream.disposition = given.disposition
        if self._encoded is not None:  # the header is that of frames encoded here, in the form the packets are in
            context: Any = stream.codec_context
            context.open()
            if context.extradata and self._encoded:
                context.extradata = self._encoded
        return stream

    def _flush(self) -> None:
        left = self._encoding.rest()  # to be told of the end, SVT-AV1 asks even where it was given nothing
        if self._encoded is None:
            self._container.mux(left)

    def _guarded(self, work: Any) -> None:
        try:
            work()
        except self._av.error.FFmpegError as error:
            if isinstance(error, OSError):  # of the file: whoever gave it knows its name
                raise
            raise OutputError(f"the film cannot be written: {error}") from error


def open_output(file: BinaryIO, ending: str, tags: Mapping[str, str]) -> OutputContainer:
    """A film to write into `file`, as files with this `ending` are, which is to have these `tags`, whatever they are
    called."""
    # mp4 and mov keep the tags that they know, or all of them in another place, where fewer programs look.
    options = {"movflags": "use_metadata_tags"} if tags and ending in (".mp4", ".mov") else {}
    return load_av().open(file, "w", format=CONTAINERS[ending], options=options)


def padded(pixels: NDArray[np.float32], stored: tuple[int, int]) -> NDArray[np.float32]:
    """With its last row and column again, where `stored` (height, width) is larger."""
    rows, columns = stored[0] - pixels.shape[0], stored[1] - pixels.shape[1]
    return np.pad(pixels, ((0, rows), (0, columns), (0, 0)), mode="edge") if rows or columns else pixels


def _without(tags: Mapping[str, str], names: Collection[str]) -> dict[str, str]:
    return {name: value for name, value in tags.items() if name.lower() not in names}


def _is_counted(name: str) -> bool:
    return name.lower().startswith(_COUNTED)
