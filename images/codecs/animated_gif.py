"""GIF, with one frame or many: each of 256 colours, in the container of the format.

Source: CompuServe GIF89a; Netscape's extension for repetitions.
"""

from __future__ import annotations

import struct
from io import BytesIO
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from . import gif_metadata
from .frames import Box, Film, Timing, changes
from .picture import Picture, levels, lost_depth

_CENTISECOND, _LONGEST = 10.0, 65535
_LEAVE, _CLEAR = 1, 2  # what becomes of a frame after its time
_COLOURS = 256
_HALF = 128  # from here on a pixel is shown


def encode(picture: Picture) -> tuple[bytes, tuple[str, ...]]:
    buffer = BytesIO()
    film = Film([levels(picture, 8)], Timing((0.0,), plays=1), picture.metadata)
    lost = write(buffer, film)
    return buffer.getvalue(), lost_depth(picture, "GIF") + lost


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
            beside, lost = gif_metadata.extensions(film.metadata)
            file.write(gif_metadata.repetitions(film.timing.plays) + beside)
        # Clear pixels let show what was there before, so with them each frame begins on a clear canvas, as a whole.
        place = Box(0, 0, *frame.shape[1::-1]) if see_through else box
        indexed, clear = _indexed(place.of(frame), notes)
        palette, pixels = _encoded(indexed)
        control = (_CLEAR if see_through else _LEAVE) << 2 | (clear is not None)
        file.write(b"!\xf9\x04" + struct.pack("<BHBB", control, durations[index], clear or 0, 0))
        bits = (len(palette) // 3 - 1).bit_length() - 1
        file.write(b"," + struct.pack("<HHHHB", place.left, place.top, *place.size, 0x80 | bits) + palette + pixels)
    file.write(b";")
    return (*lost, *sorted(notes))


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
    image = next(block for block in gif_metadata.blocks(data) if block.label == gif_metadata.IMAGE)
    own = gif_metadata.palette_size(image.head[9])
    first = gif_metadata.HEADER_END
    palette = image.head[10 : 10 + own] if own else data[first : first + gif_metadata.palette_size(data[10])]
    return palette, image.head[-1:] + data[image.start : image.end]
