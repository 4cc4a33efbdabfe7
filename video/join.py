"""Segments become a film: their packets are copied, and all that is beside the pictures comes in between."""

from __future__ import annotations

import errno
import os
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

from ..api.errors import OutputError
from ..images.whole import write_whole
from ..pipeline.threads import interruptible
from .copies import CopyPlan
from .formats import FilmFormat
from .interleave import is_due
from .parts import sync_folder
from .pyav import load_av
from .reader import FilmReader
from .records import KnownPacket
from .writer import FilmWriter

if TYPE_CHECKING:
    from av.packet import Packet


class Piece(NamedTuple):
    """A file with packets of the film, and what tells when these are shown, in their order there: of a long film that
    would be much at once."""

    path: Path
    packets: Callable[[], Sequence[KnownPacket]]


@dataclass(frozen=True)
class Joining:
    """How the segments of the film that `reader` reads become a film, as `planned` and `copies` say, with more
    `tags`."""

    reader: FilmReader
    planned: FilmFormat
    copies: CopyPlan
    tags: Mapping[str, str] = field(default_factory=dict)

    def whole(self, target: Path, pieces: Sequence[Piece]) -> None:
        """All of the film, in the file `target`, which is replaced once it is there and on the disk."""
        self._join(target, pieces, is_whole=True)

    def begun(self, target: Path, pieces: Sequence[Piece]) -> None:
        """The film up to where its pictures end."""
        self._join(target, pieces, is_whole=False)

    def _join(self, target: Path, pieces: Sequence[Piece], is_whole: bool) -> None:
        needed = sum(piece.path.stat().st_size for piece in pieces)
        if _free(target) < needed:
            told = f"{target}: no room to join its segments; {_room(needed, target, pieces)}"
            raise OutputError(told) from OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        def fill(file: BinaryIO) -> None:
            interruptible("cudaspeed joining", lambda stop: self._fill(file, pieces, is_whole, stop))
            file.flush()
            os.fsync(file.fileno())

        try:
            write_whole(target, fill)
        except OutputError as error:
            if getattr(error.__cause__, "errno", None) != errno.ENOSPC:
                raise
            raise OutputError(f"{error}; {_room(needed, target, pieces)}") from error
        sync_folder(target.absolute().parent)

    def _fill(self, file: BinaryIO, pieces: Sequence[Piece], is_whole: bool, stop: threading.Event) -> None:
        encoded = _extradata(pieces[0].path)
        with (
            self.reader.again() as reader,
            FilmWriter(file, reader, self.planned, self.copies, self.tags, encoded) as writer,
            closing(reader.beside()) as beside,
        ):
            packet = next(beside, None)
            decoded = _decoding_times(pieces)
            for piece in pieces:
                for mine, known in _packets(piece):
                    if stop.is_set():
                        packet = None
                        del mine
                        return
                    mine.time_base = self.planned.time_base
                    mine.pts, mine.dts, mine.duration = known.pts, next(decoded), known.duration
                    while packet is not None and is_due(packet, known.pts * self.planned.time_base):
                        writer.copy(packet)
                        packet = next(beside, None)
                    writer.put(mine)  # after those before it, which the muxer sorts only as far as it looks
                    del mine  # of a file that is closed next
            while packet is not None and is_whole and not stop.is_set():
                writer.copy(packet)
                packet = next(beside, None)
            packet = None
            writer.finish()


def _packets(piece: Piece) -> Iterator[tuple[Packet[Any], KnownPacket]]:
    """Raises `OutputError` where they are not those that are known."""
    with load_av().open(str(piece.path)) as container, closing(container.demux(video=0)) as demuxed:
        found = (packet for packet in demuxed if packet.size)
        for known in piece.packets():
            packet = next(found, None)
            if packet is None:
                raise OutputError(f"{piece.path}: was damaged meanwhile; call again, and it is done anew")
            yield packet, known


def _extradata(path: Path) -> bytes:
    """What its decoder is told first."""
    with load_av().open(str(path)) as container:
        return container.streams.video[0].codec_context.extradata or b""


def _decoding_times(pieces: Sequence[Piece]) -> Iterator[int]:
    """When each packet of the film is decoded, in ticks: as late as the one shown so many packets earlier is shown, as
    many as an encoder puts frames out of their order, so that times run on evenly from one segment to the next."""
    depth = max(_depth(piece.packets()) for piece in pieces)
    shown = chain.from_iterable(sorted(known.pts for known in piece.packets()) for piece in pieces)
    first = [*islice(shown, depth + 1)]
    span = first[-1] - first[0]
    yield from (pts - span for pts in first[:depth])
    yield from chain(first, shown)


def _depth(packets: Sequence[KnownPacket]) -> int:
    """How many packets at most one lies after where it would, were they in the order in which they are shown."""
    place = {pts: number for number, pts in enumerate(sorted(known.pts for known in packets))}
    return max(number - place[known.pts] for number, known in enumerate(packets))


def _free(target: Path) -> int:
    return shutil.disk_usage(target.absolute().parent).free


def _room(needed: int, target: Path, pieces: Sequence[Piece]) -> str:
    return (
        f"the film takes {needed / 1e9:.2f} GB and what its sound takes, and {_free(target) / 1e9:.2f} GB are free "
        f"there; make room, and the same call goes on: the segments are kept in {pieces[0].path.parent}"
    )
