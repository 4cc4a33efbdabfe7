"""Small films, made with PyAV: of every kind that somebody's camera, screen recorder or ripping program makes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

av = pytest.importorskip("av", minversion="17.1", reason="films need PyAV 17.1 or newer: pip install 'av>=17.1'")

MILLISECONDS = Fraction(1, 1000)
REC601, REC709, REC2020 = 6, 1, 9  # matrices, as FFmpeg numbers them
LIMITED, FULL = 1, 2
SRT = ("Good morning.", "Good night.")
MASTERING = "G(13250,34500)B(7500,3000)R(34000,16000)WP(15635,16450)L(10000000,50)"


@dataclass(frozen=True)
class Look:
    """How a film's pictures are stored. `colour` is (matrix, range, primaries, transfer); None: it does not say.
    `fields`: which of an interlaced frame's comes first, "tff" the top one, "bff" the other."""

    codec: str = "libx264"
    pixel_format: str = "yuv420p"
    size: tuple[int, int] = (48, 64)
    colour: tuple[int, int, int, int] | None = None
    options: dict[str, str] = field(default_factory=dict)
    rotation: int | None = None
    pixel_aspect: Fraction | None = None
    tags: dict[str, str] = field(default_factory=dict)
    b_frames: int = 2
    fields: str = ""


@dataclass(frozen=True)
class Beside:
    """What else is in the file: so many tracks of sound, subtitles, chapters, a font, a cover."""

    sounds: Sequence[str] = ()
    subtitles: bool = False
    chapters: bool = False
    font: bool = False
    cover: bool = False
    tags: dict[str, str] = field(default_factory=dict)


def picture(number: int, size: tuple[int, int] = (48, 64)) -> NDArray[np.uint8]:
    """A picture [H, W, 3] with edges and shades, which moves from number to number."""
    y, x = np.mgrid[: size[0], : size[1]]
    planes = (x * 3 + number * 5) % 200 + 20, (y * 4 + number * 3) % 200 + 20, ((x + y) * 2 + number) % 200 + 20
    return np.stack(planes, axis=-1).astype(np.uint8)


def make_film(
    path: Path,
    times: Sequence[int],
    look: Look = Look(),
    beside: Beside = Beside(),
) -> list[NDArray[np.uint8]]:
    """Write a film whose frames stand at `times` in milliseconds; return its pictures."""
    pictures = [picture(number, look.size) for number in range(len(times))]
    with av.open(str(path), "w") as container:
        film = _film_stream(container, look)
        sounds = [_sound(container, language) for language in beside.sounds]
        text = _subtitle_stream(container) if beside.subtitles else None
        cover = _cover_stream(container) if beside.cover else None
        container.metadata.update(beside.tags)
        if beside.chapters:
            container.set_chapters(_chapters(times[-1]))
        if beside.font:
            container.add_attachment("serif.ttf", "font/ttf", b"not quite a font")
        container.start_encoding()
        if cover:
            _mux_cover(container, cover)
        for number, time in enumerate(times):
            container.mux(film.encode(_frame(pictures[number], time, look)))
        container.mux(film.encode())
        for sound in sounds:
            _mux_sound(container, sound, times[-1])
        if text:
            _mux_subtitles(container, text)
    return pictures


def every(milliseconds: int, frames: int) -> list[int]:
    """The times of so many frames."""
    return [milliseconds * number for number in range(frames)]


def decoded(path: Path, pixel_format: str | None = None) -> list[Any]:
    """All frames of a film, as PyAV decodes them; in `pixel_format` as arrays."""
    with av.open(str(path)) as container:
        frames = [*container.decode(video=0)]
        if pixel_format:
            return [frame.to_ndarray(format=pixel_format) for frame in frames]
        return frames


def packets(path: Path, stream: int) -> list[tuple[float, bytes]]:
    """(seconds, contents) of all packets of a stream."""
    with av.open(str(path)) as container:
        found = [packet for packet in container.demux(container.streams[stream]) if packet.size]
        return [(float((packet.pts or 0) * packet.time_base), bytes(packet)) for packet in found]


def overwrite(path: Path, first: int, count: int) -> None:
    """Fill `count` packets of the film in a file with noise, from the `first` on."""
    with av.open(str(path)) as container:
        places = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
    data, noise = bytearray(path.read_bytes()), np.random.default_rng(1)
    for place, size in places[first : first + count]:
        data[place + 12 : place + size] = noise.bytes(size - 12)
    path.write_bytes(data)


def plane(frame: Any, number: int) -> NDArray[Any]:
    """A plane of a decoded frame as it is stored, without the padding of its lines."""
    stored = frame.planes[number]
    kind = np.uint16 if frame.format.components[number].bits > 8 else np.uint8
    lines = np.frombuffer(stored, kind).reshape(-1, stored.line_size // np.dtype(kind).itemsize)
    return lines[: stored.height, : stored.width]


def _film_stream(container: Any, look: Look) -> Any:
    stream = container.add_stream(look.codec, rate=25, options=dict(look.options))
    stream.height, stream.width = look.size
    stream.pix_fmt = look.pixel_format
    context = stream.codec_context
    context.time_base, context.max_b_frames = MILLISECONDS, look.b_frames
    if look.colour:
        context.colorspace, context.color_range, context.color_primaries, context.color_trc = look.colour
    if look.pixel_aspect:
        context.sample_aspect_ratio = look.pixel_aspect
    if look.rotation is not None:
        stream.set_display_rotation(look.rotation)
    stream.metadata.update(look.tags)
    return stream


def _frame(pixels: NDArray[np.uint8], time: int, look: Look) -> Any:
    matrix, levels = look.colour[:2] if look.colour else (REC601, LIMITED)
    working = {REC709: 1, REC2020: 9}.get(matrix, 5)
    frame = av.VideoFrame.from_ndarray(_with_alpha(pixels) if "a" in look.pixel_format[:4] else pixels, _form(look))
    frame = frame.reformat(
        format=look.pixel_format,
        src_colorspace=working,
        dst_colorspace=working,
        src_color_range=FULL,
        dst_color_range=levels,
    )
    frame.pts, frame.time_base = time, MILLISECONDS
    if look.colour:
        frame.colorspace, frame.color_range, frame.color_primaries, frame.color_trc = look.colour
    else:
        frame.colorspace = frame.color_primaries = frame.color_trc = 2
        frame.color_range = 0
    return of_fields(frame, look.fields) if look.fields else frame


def of_fields(frame: Any, order: str) -> Any:
    """The frame, saying that it is interlaced, which PyAV has no name for."""
    graph = av.filter.Graph()
    source = graph.add_buffer(
        width=frame.width, height=frame.height, format=frame.format.name, time_base=frame.time_base
    )
    told, sink = graph.add("setfield", order), graph.add("buffersink")
    source.link_to(told)
    told.link_to(sink)
    graph.configure()
    graph.push(frame)
    return graph.pull()


def _form(look: Look) -> str:
    return "rgba" if "a" in look.pixel_format[:4] else "rgb24"


def _with_alpha(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """With an opaque disc in the middle of nothing."""
    height, width = pixels.shape[:2]
    y, x = np.mgrid[:height, :width]
    inside = (y - height / 2) ** 2 + (x - width / 2) ** 2 < (min(height, width) / 3) ** 2
    return np.dstack([pixels, np.where(inside, 255, 0).astype(np.uint8)])


def _sound(container: Any, language: str) -> Any:
    stream = container.add_stream("aac", rate=48000)
    stream.layout = "mono"
    stream.metadata["language"] = language
    return stream


def _mux_sound(container: Any, stream: Any, milliseconds: int) -> None:
    samples = max(4, milliseconds * 48 // 1024) * 1024
    tone = (np.sin(np.arange(samples) / 20) * 0.3).astype(np.float32)
    for start in range(0, samples, 1024):
        frame = av.AudioFrame.from_ndarray(tone[None, start : start + 1024], format="fltp", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = 48000, start, Fraction(1, 48000)
        container.mux(stream.encode(frame))
    container.mux(stream.encode())


def _subtitle_stream(container: Any) -> Any:
    stream = container.add_mux_stream("subrip")
    stream.time_base = MILLISECONDS
    stream.metadata["language"] = "eng"
    stream.disposition = av.stream.Disposition.forced
    return stream


def _mux_subtitles(container: Any, stream: Any) -> None:
    for number, line in enumerate(SRT):
        packet = av.Packet(line.encode())
        packet.stream, packet.time_base = stream, MILLISECONDS
        packet.pts = packet.dts = 200 * number
        packet.duration = 150
        container.mux(packet)


def _cover_stream(container: Any) -> Any:
    stream = container.add_stream("mjpeg", rate=1)
    stream.width, stream.height, stream.pix_fmt = 32, 32, "yuvj420p"
    stream.codec_context.time_base = Fraction(1, 25)
    stream.disposition = av.stream.Disposition.attached_pic
    return stream


def _mux_cover(container: Any, stream: Any) -> None:
    frame = av.VideoFrame.from_ndarray(picture(3, (32, 32)), "rgb24").reformat(format="yuvj420p")
    frame.pts, frame.time_base = 0, Fraction(1, 25)
    container.mux(stream.encode(frame))
    container.mux(stream.encode())


def _chapters(milliseconds: int) -> list[dict[str, Any]]:
    half = milliseconds // 2
    return [
        {"id": 1, "start": 0, "end": half, "time_base": MILLISECONDS, "metadata": {"title": "Dawn"}},
        {"id": 2, "start": half, "end": milliseconds, "time_base": MILLISECONDS, "metadata": {"title": "Dusk"}},
    ]
