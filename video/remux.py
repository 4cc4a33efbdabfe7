"""A finished film once more, packet by packet, with other tags: nothing of it is computed again."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from ..api.errors import OutputError
from .copies import Copier, plan_copies
from .pyav import load_av
from .writer import NOT_COPIED, open_output

if TYPE_CHECKING:
    from av.container import OutputContainer
    from av.packet import Packet
    from av.stream import Stream


_EARLY = (
    10  # seconds before its first picture that a film's packets are begun to be counted, where a file has no number
)
_MILLISECONDS = Fraction(1, 1000)


@dataclass
class _Others:
    """All but the film, for a `Copier`."""

    others: tuple[Stream, ...]
    covers: dict[int, bytes]


def copy_film(
    source: Path, ending: str, file: BinaryIO, tags: Mapping[str, str], dropped: Collection[str] = ()
) -> None:
    """Write the film in `source`, which is one of ours, into `file`, in the same container, that of files with this
    `ending`, with these `tags` beside its own, of which those with `dropped` names go. Raises `OutputError` where it
    cannot be written."""
    av = load_av()
    covers = _covers(source) if ending == ".mkv" else {}
    with av.open(str(source)) as given:
        gone = NOT_COPIED | {name.lower() for name in dropped}
        kept = {name: value for name, value in given.metadata.items() if name.lower() not in gone}
        film, *others = given.streams
        try:
            with open_output(file, ending, {**kept, **tags} if tags or dropped else {}) as made:
                target = _add_film(made, film)
                beside = _Others(tuple(others), covers)
                copier = Copier(made, beside, plan_copies(others, ending), ending)
                made.metadata.update({**kept, **tags})
                if given.chapters():
                    made.set_chapters(given.chapters())
                made.start_encoding()
                clock = _DecodingClock(film)
                for packet in given.demux([stream for stream in given.streams if stream.type != "attachment"]):
                    if packet.size and packet.stream.index == film.index:
                        clock.set(packet)
                        packet.stream = target
                        made.mux(packet)
                    elif packet.size:
                        copier.copy(packet)
        except av.error.FFmpegError as error:
            if isinstance(error, OSError):
                raise
            raise OutputError(f"the film cannot be copied: {error}") from error


class _DecodingClock:
    """When packets are decoded, which Matroska does not say of the first ones, and muxers want to know."""

    def __init__(self, film: Stream) -> None:
        self._early = round(_EARLY / (film.time_base or _MILLISECONDS))
        self._last: int | None = None

    def set(self, packet: Packet[Any]) -> None:
        if packet.dts is None:
            packet.dts = (packet.pts or 0) - self._early if self._last is None else self._last + 1
        self._last = packet.dts


def _add_film(container: OutputContainer, film: Stream) -> Stream:
    target: Any = container.add_stream_from_template(film, opaque=True)
    target.codec_context.framerate = film.average_rate
    target.metadata.update(film.metadata)
    target.disposition = film.disposition
    return target


def _covers(source: Path) -> dict[int, bytes]:
    """The encoded pictures of a file's covers, by their stream's index: they are its first packets."""
    av = load_av()
    with av.open(str(source)) as given:
        flag = av.stream.Disposition.attached_pic
        covers = [stream for stream in given.streams if stream.disposition & flag]
        packets = islice(given.demux(covers), len(covers)) if covers else ()
        return {packet.stream.index: bytes(packet) for packet in packets}
