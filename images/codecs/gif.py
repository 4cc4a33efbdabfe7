"""GIF: comments and profiles of one, and pictures or animations with a palette of 256 colours for each frame.

Source: CompuServe GIF89a; Netscape's extension for repetitions, Adobe's for XMP, the ICC's for profiles.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from io import BytesIO
from typing import BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .frames import Box, Film, Timing, changes
from .icc import profile_for
from .metadata import MOST_TEXTS, Metadata, Stored
from .picture import Picture, levels, lost_depth
from .text import COMMENT, comment_chunk, read_texts, unkept

SIGNATURES = (b"GIF87a", b"GIF89a")
LONGEST_SIDE = 65535
_HEADER_END = 13
_EXTENSION, _IMAGE, _END = b"!", b",", b";"
_COMMENT, _APPLICATION = 0xFE, 0xFF
_XMP, _XMP_TRAILER, _ICC = b"XMP DataXMP", 258, b"ICCRGBG1012"
_CENTISECOND, _LONGEST = 10.0, 65535
_LEAVE, _CLEAR = 1, 2  # what becomes of a frame after its time
_COLOURS = 256
_COMMENTS = (COMMENT, "parameters")  # the Stable Diffusion web UIs look for the latter there
_STORED_CHANNELS = 3  # a palette is RGB
_HALF = 128  # from here on a pixel is shown


class _Block(NamedTuple):
    """An extension (its label) or an image (-1), the bytes before its sub-blocks, and where these lie."""

    label: int
    head: bytes
    start: int
    end: int


def _blocks(data: bytes) -> Iterator[_Block]:
    """What breaks off ends them."""
    if len(data) < _HEADER_END:
        return
    place = _HEADER_END + _palette_size(data[10])
    while place + 2 < len(data) and data[place : place + 1] in (_EXTENSION, _IMAGE):
        start, label = place, -1
        if data[place : place + 1] == _EXTENSION:
            label = data[place + 1]
            place += 2
        else:
            place += 10 + _palette_size(data[place + 9] if place + 9 < len(data) else 0) + 1
        head, inside = data[start:place], place
        while place < len(data) and data[place]:
            place += 1 + data[place]
        place += 1
        yield _Block(label, head, inside, min(place, len(data)))


def _palette_size(flags: int) -> int:
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def _joined(data: bytes, block: _Block) -> list[bytes]:
    """The sub-blocks of one."""
    parts, place = [], block.start
    while place < block.end and data[place]:
        parts.append(data[place + 1 : place + 1 + data[place]])
        place += 1 + data[place]
    return parts


def _sub_blocks(data: bytes) -> bytes:
    parts = (data[start : start + 255] for start in range(0, len(data), 255))
    return b"".join(bytes([len(part)]) + part for part in parts) + b"\0"


def read_metadata(data: bytes) -> Stored:
    """Comments, XMP and colour profile."""
    comments, xmp, icc = [], None, None
    for block in _blocks(data):
        if block.label == _COMMENT and len(comments) < MOST_TEXTS:
            comments.append(comment_chunk(b"".join(_joined(data, block))))
        elif block.label == _APPLICATION:
            parts = _joined(data, block)
            if parts[:1] == [_ICC]:
                icc = b"".join(parts[1:])
            elif parts[:1] == [_XMP]:  # not in sub-blocks: as it is, then bytes that lead any reader to the end
                xmp = data[block.start + 1 + len(_XMP) : max(block.end - _XMP_TRAILER, 0)]
    return Stored(Metadata(icc=icc, text=tuple(comments)), xmp=xmp)


def encode(picture: Picture) -> tuple[bytes, tuple[str, ...]]:
    buffer = BytesIO()
    film = Film([levels(picture.pixels, 8)], Timing((0.0,), plays=1), picture.metadata)
    lost = write(buffer, film)
    return buffer.getvalue(), lost_depth(picture.bits, "GIF") + lost


def write(file: BinaryIO, film: Film) -> tuple[str, ...]:
    """Write frame by frame; warnings about what the format cannot hold.

    Up to 256 colours of a frame are kept as they are, more become the 256 that suit it best, dithered; alpha becomes
    shown or not.
    """
    durations, rounded = film.timing.rounded(_CENTISECOND, _LONGEST, "GIF")
    notes = set(rounded)
    see_through, lost = False, ()
    for index, (frame, box) in enumerate(changes(film.frames)):
        if index == 0:
            see_through = frame.ndim == 3 and frame.shape[2] in (2, 4)
            height, width = frame.shape[:2]
            file.write(b"GIF89a" + struct.pack("<HHBBB", width, height, 0x70, 0, 0))
            lost = _write_metadata(file, film)
        # Clear pixels let show what was there before, so with them each frame begins on a clear canvas, as a whole.
        place = Box(0, 0, *frame.shape[1::-1]) if see_through else box
        indexed, clear = _indexed(place.of(frame), notes)
        palette, pixels = _encoded(indexed)
        control = (_CLEAR if see_through else _LEAVE) << 2 | (clear is not None)
        file.write(b"!\xf9\x04" + struct.pack("<BHBB", control, durations[index], clear or 0, 0))
        bits = (len(palette) // 3 - 1).bit_length() - 1
        file.write(_IMAGE + struct.pack("<HHHHB", place.left, place.top, *place.size, 0x80 | bits) + palette + pixels)
    file.write(_END)
    return (*lost, *sorted(notes))


def _write_metadata(file: BinaryIO, film: Film) -> tuple[str, ...]:
    metadata, plays = film.metadata, film.timing.plays
    if plays != 1:  # told is how often it is played again; 0 stands for ever
        again = min(plays - 1, 65535) if plays else 0
        file.write(b"!\xff\x0bNETSCAPE2.0" + _sub_blocks(struct.pack("<BH", 1, again)))
    icc, notes = profile_for(metadata, _STORED_CHANNELS, "GIF")
    if icc:
        file.write(b"!\xff\x0b" + _ICC + _sub_blocks(icc))
    if metadata.xmp:
        file.write(b"!\xff\x0b" + _XMP + metadata.xmp + b"\1" + bytes(range(255, -1, -1)) + b"\0")
    texts, lost = read_texts(metadata.text)
    for text in texts:
        if text.keyword in _COMMENTS:
            file.write(b"!\xfe" + _sub_blocks(text.raw))
        else:
            lost.append(text.keyword)
    notes += tuple(unkept("GIF", lost, metadata.private))
    if metadata.exif:
        notes += ("GIF has no place for EXIF data; it was left out",)
    if metadata.resolution:
        notes += ("GIF has no place for a resolution (dpi); it was left out",)
    return notes


def _indexed(samples: NDArray[np.uint8], notes: set[str]) -> tuple[Image.Image, int | None]:
    """[H, W] or [H, W, C] with a palette, and the index of what is clear, None without alpha."""
    if samples.ndim == 2:
        return Image.fromarray(samples), None
    channels = samples.shape[2]
    hidden = samples[..., -1] < _HALF if channels in (2, 4) else None
    colour = np.broadcast_to(samples[..., :1], (*samples.shape[:2], 3)) if channels == 2 else samples[..., :3]
    if hidden is not None:
        colour = np.where(hidden[..., None], np.uint8(0), colour)
        if ((samples[..., -1] > 0) & (samples[..., -1] < 255)).any():
            notes.add("GIF has no half-transparent pixels; each was shown or hidden")
    room = _COLOURS if hidden is None else _COLOURS - 1
    rgb = Image.fromarray(np.ascontiguousarray(colour))
    if rgb.getcolors(room) is None:
        notes.add(f"GIF has {_COLOURS} colours a frame; the picture has more, and was dithered")
        best = rgb.quantize(room, Image.Quantize.MEDIANCUT)
        indexed = rgb.quantize(palette=best, dither=Image.Dither.FLOYDSTEINBERG)
    else:
        packed = colour.astype(np.uint32) @ np.array([1 << 16, 1 << 8, 1], np.uint32)
        values, indices = np.unique(packed, return_inverse=True)
        indexed = Image.fromarray(indices.reshape(packed.shape).astype(np.uint8))
        indexed.putpalette(np.stack([values >> 16, values >> 8 & 255, values & 255], axis=1).astype(np.uint8).tobytes())
    if hidden is None:
        return indexed, None
    palette = (indexed.getpalette() or [])[: 3 * room]
    cleared = Image.fromarray(np.where(hidden, np.uint8(len(palette) // 3), np.asarray(indexed)))
    cleared.putpalette([*palette, 0, 0, 0])
    return cleared, len(palette) // 3


def _encoded(indexed: Image.Image) -> tuple[bytes, bytes]:
    """Its palette, and its pixels as the format has them: Pillow's, taken out of the file that it makes."""
    buffer = BytesIO()
    indexed.save(buffer, "GIF", optimize=False, interlace=False)
    data = buffer.getvalue()
    image = next(block for block in _blocks(data) if block.label == -1)
    local = _palette_size(image.head[9])
    palette = image.head[10 : 10 + local] if local else data[_HEADER_END : _HEADER_END + _palette_size(data[10])]
    return palette, image.head[-1:] + data[image.start : image.end]
