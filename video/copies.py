"""What is copied beside a film's pictures: which streams a container takes is found out before the first frame."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from .encoders import CONTAINERS
from .pyav import load_av
from .subtitles import ASS_HEADER, IN_CONTAINER, is_text, packet_of, text_of
from .timeline import Timeline

if TYPE_CHECKING:
    from av.container import OutputContainer
    from av.packet import Packet
    from av.stream import Stream

    from .inputs import Beside

_MILLISECONDS = Fraction(1, 1000)
_LEFT_OUT = {(".webm", "attachment"), (".mov", "cover")}  # by muxers that do not say so
_COVERS = {"mjpeg": ("cover.jpg", "image/jpeg"), "png": ("cover.png", "image/png")}  # as Matroska attaches them
_KINDS = {"audio": "sound", "subtitle": "subtitles"}  # where people say something else
# QuickTime knows languages by the older ones of two codes (ISO 639-2/B).
_OLDER = {
    "bod": "tib",
    "ces": "cze",
    "cym": "wel",
    "deu": "ger",
    "ell": "gre",
    "eus": "baq",
    "fas": "per",
    "fra": "fre",
    "hye": "arm",
    "isl": "ice",
    "kat": "geo",
    "mkd": "mac",
    "mri": "mao",
    "msa": "may",
    "mya": "bur",
    "nld": "dut",
    "ron": "rum",
    "slk": "slo",
    "sqi": "alb",
    "zho": "chi",
}


@dataclass(frozen=True)
class CopyPlan:
    """The streams of a film's file that are copied, by their index there; with `converted` subtitles, which become the
    text that the container has. `notes` says in sentences what becomes text, and what is left out."""

    copied: tuple[int, ...] = ()
    converted: tuple[int, ...] = ()
    notes: tuple[str, ...] = ()


def plan_copies(streams: Sequence[Stream], ending: str, tagged: bool = False) -> CopyPlan:
    """What of `streams` the container of files with this `ending` takes: each is tried on an output that goes
    nowhere. One that is `tagged` by names of our own takes no cover, where these have its place."""
    copied: list[int] = []
    converted: list[int] = []
    notes: list[str] = []
    for stream in streams:
        if _is_chapters(stream):
            continue
        no_place = (ending, _kind(stream)) in _LEFT_OUT or (tagged and (ending, _kind(stream)) == (".mp4", "cover"))
        if not no_place and _is_taken(stream, ending):
            copied.append(stream.index)
        elif stream.type == "subtitle" and is_text(_codec(stream)):
            converted.append(stream.index)
            keeps = "" if ending == ".mkv" else "; mkv keeps it as it is"
            notes.append(f"{name_of(stream)} becomes {IN_CONTAINER[ending]}, plain text{keeps}")
        else:
            keeps = "" if ending == ".mkv" else "; mkv keeps it"
            notes.append(f"{name_of(stream)} is left out, {ending[1:]} does not take it{keeps}")
    return CopyPlan(tuple(copied), tuple(converted), tuple(notes))


class Copier:
    """Streams of the film that `reader` has open, copied into `container` as `plan` says, from before its header is
    written on."""

    def __init__(self, container: OutputContainer, reader: Beside, plan: CopyPlan, ending: str) -> None:
        self._container, self._ending, self._plan = container, ending, plan
        self._targets: dict[int, Stream] = {}
        self._timelines: dict[int, Timeline] = {}
        for stream in reader.others:
            if ending == ".mkv" and stream.index in plan.copied and stream.index in reader.covers:
                container.add_attachment(*_as_attachment(stream), reader.covers[stream.index])
            elif stream.index in plan.copied:
                self._targets[stream.index] = _add_copy(container, stream)
            elif stream.index in plan.converted:
                self._targets[stream.index] = _add_text(container, stream, ending)
        if ending == ".mov":
            for target in self._targets.values():
                language = target.metadata.get("language", "")
                if language in _OLDER:
                    target.metadata["language"] = _OLDER[language]

    def copy(self, packet: Packet[Any]) -> None:
        """Put a packet of the film's file into the container, whose header has been written."""
        index = packet.stream.index
        target = self._targets.get(index)
        if target is None:
            return
        for one in self._as_text(packet) if index in self._plan.converted else (packet,):
            one.stream = target
            self._place(one, index)
            self._container.mux(one)

    def _as_text(self, packet: Packet[Any]) -> Iterator[Packet[Any]]:
        """In the container's form; nothing for a pause, which it needs no packet for."""
        text = text_of(_codec(packet.stream), bytes(packet))
        if text:
            made: Packet[Any] = load_av().Packet(packet_of(IN_CONTAINER[self._ending], text))
            made.time_base, made.pts, made.dts = packet.time_base, packet.pts, packet.dts
            made.duration = packet.duration
            yield made

    def _place(self, packet: Packet[Any], index: int) -> None:
        """Where it stands in the container's ticks: muxers refuse what runs backwards."""
        target = self._targets[index]
        ticks = target.time_base or _MILLISECONDS
        if index not in self._timelines:
            # Matroska takes equal times, which its milliseconds make of frames that are shorter.
            self._timelines[index] = Timeline(ticks, step=0 if self._ending in (".mkv", ".webm") else 1)
        ratio = packet.time_base / ticks
        pts, dts = (None if time is None else round(time * ratio) for time in (packet.pts, packet.dts))
        duration = round((packet.duration or 0) * ratio)
        said = pts if dts is None else dts
        at = self._timelines[index].place(said, duration)
        later = 0 if said is None else at - said
        packet.time_base, packet.duration, packet.dts = ticks, duration, at
        packet.pts = at if pts is None else max(at, pts + later)


def _is_taken(stream: Stream, ending: str) -> bool:
    av = load_av()
    try:
        with av.open(io.BytesIO(), "w", format=CONTAINERS[ending]) as trial:
            _add_copy(trial, stream)
            trial.start_encoding()
    except (av.error.FFmpegError, ValueError, RuntimeError):
        return False
    return True


def _add_copy(container: OutputContainer, stream: Stream) -> Stream:
    target = container.add_stream_from_template(stream, opaque=True)
    target.metadata.update(stream.metadata)
    target.disposition = stream.disposition
    return target


def _add_text(container: OutputContainer, stream: Stream, ending: str) -> Stream:
    codec = IN_CONTAINER[ending]
    if codec == "mov_text":  # whose header says how text looks: its encoder makes one
        target: Any = container.add_stream(codec)
        target.codec_context.subtitle_header = ASS_HEADER
        target.codec_context.time_base = _MILLISECONDS
    else:
        target = container.add_mux_stream(codec)
    target.time_base = _MILLISECONDS
    target.metadata.update(stream.metadata)
    target.disposition = stream.disposition
    return target


def _as_attachment(cover: Stream) -> tuple[str, str]:
    """Name and kind of a cover, which is a file of its own in Matroska."""
    name, kind = _COVERS.get(_codec(cover), ("cover", "application/octet-stream"))
    tags = {tag.lower(): value for tag, value in cover.metadata.items()}
    return tags.get("filename", name), tags.get("mimetype", kind)


def _codec(stream: Stream) -> str:
    """The name of its codec; "" where FFmpeg has none for it, as for attachments."""
    context: Any = stream.codec_context
    return context.name if context else ""


def name_of(stream: Stream) -> str:
    """As people know it: "subtitles 3 (srt, eng)"."""
    language = stream.metadata.get("language", "")
    named = stream.metadata.get("filename", "")
    told = ", ".join(part for part in (_codec(stream), language, named) if part)
    kind = _kind(stream)
    return f"{_KINDS.get(kind, kind)} {stream.index}" + (f" ({told})" if told else "")


def _kind(stream: Stream) -> str:
    """Its type, and of a picture that goes with the sound "cover"."""
    return "cover" if stream.disposition & load_av().stream.Disposition.attached_pic else stream.type


def _is_chapters(stream: Stream) -> bool:
    """Whether it is what MP4 keeps the names of chapters in, which are written anew."""
    return stream.type == "data" and not _codec(stream) and bool(stream.container.chapters()) and _is_mp4(stream)


def _is_mp4(stream: Stream) -> bool:
    return "mp4" in stream.container.format.name.split(",")
