"""Animated WebP: frames, each a picture that Pillow encodes, in the container of the format.

Source: WebP container specification (Google, 2023).
"""

from __future__ import annotations

import struct
from typing import BinaryIO

from ...api.errors import BadImageError
from . import webp_metadata, with_pillow
from .exif import to_bytes
from .frames import Box, Film, changes

_PICTURE = (b"ALPH", b"VP8 ", b"VP8L")
_MOST_PLAYS, _LONGEST, _MOST_BYTES = 0xFFFF, 0xFFFFFF, 0xFFFFFFFE
_REPLACE = 0b10  # what a frame covers, instead of blending with it
_ICC, _ALPHA, _EXIF, _XMP, _ANIMATION = 0x20, 0x10, 0x08, 0x04, 0x02
_SIZE = 4  # where the file tells how much follows


def write(file: BinaryIO, film: Film) -> tuple[str, ...]:
    """Write frame by frame, with the quality of still pictures; warnings about what the format cannot hold."""
    metadata, notes = webp_metadata.fitted(film.metadata)
    durations, rounded = film.timing.rounded(1.0, _LONGEST, "WebP")
    flags = _ANIMATION | _ICC * bool(metadata.icc) | _EXIF * bool(metadata.exif) | _XMP * bool(metadata.xmp)
    for index, (frame, box) in enumerate(changes(film.frames)):
        if index == 0:
            height, width = frame.shape[:2]
            flags |= _ALPHA * (frame.ndim == 3 and frame.shape[2] in (2, 4))
            file.write(b"RIFF" + bytes(4) + b"WEBP")
            file.write(webp_metadata.chunk(b"VP8X", bytes([flags, 0, 0, 0]) + _three(width - 1) + _three(height - 1)))
            if metadata.icc:
                file.write(webp_metadata.chunk(b"ICCP", metadata.icc))
            plays = min(film.timing.plays, _MOST_PLAYS)
            file.write(webp_metadata.chunk(b"ANIM", bytes(4) + struct.pack("<H", plays)))
        box = Box(box.left & ~1, box.top & ~1, box.right, box.bottom)  # places are stored halved
        encoded = with_pillow.webp_bytes(box.of(frame))
        picture = b"".join(
            webp_metadata.chunk(*found) for found in webp_metadata.chunks(encoded) if found[0] in _PICTURE
        )
        numbers = (box.left // 2, box.top // 2, box.size[0] - 1, box.size[1] - 1, durations[index])
        file.write(webp_metadata.chunk(b"ANMF", b"".join(map(_three, numbers)) + bytes([_REPLACE]) + picture))
    if metadata.exif:
        file.write(webp_metadata.chunk(b"EXIF", to_bytes(metadata.exif)))
    if metadata.xmp:
        file.write(webp_metadata.chunk(b"XMP ", metadata.xmp))
    size = file.tell() - 8
    if size > _MOST_BYTES:
        raise BadImageError(f"the animation takes {size} bytes, and a WebP ends at {_MOST_BYTES}; write a .png file")
    file.seek(_SIZE)
    file.write(struct.pack("<I", size))
    return notes + rounded


def _three(number: int) -> bytes:
    return number.to_bytes(3, "little")
