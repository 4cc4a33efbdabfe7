"""PNG: 8 and 16 bits a sample by libpng, from what makes pixels alone.

Source: Portable Network Graphics, third edition (W3C, 2025).
"""

from __future__ import annotations

import struct
from typing import BinaryIO

from ...api.errors import BadImageError
from ..limits import DecodeLimits, check_file
from . import png_metadata
from .metadata import carried_by
from .picture import Picture, first_only, levels, lost_depth, picture_of
from .png_chunks import HEADER_END, SIGNATURE, chunks, encode_samples
from .source import read_whole, refuse_sparse, size_of

_BEFORE_PIXELS = 1 << 16  # bytes from the start, in which an animation says that it is one
_LONGEST_SIDE = 1_000_000  # pixels; libpng's limit
_PIXEL_CHUNKS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")  # all that decoding needs
_DEFLATE_RATIO = 1032  # the most that RFC 1951 makes of a byte


def read(file: BinaryIO, limits: DecodeLimits) -> Picture:
    """The picture, of an animation the first frame. What lies beside it may be damaged, or of any size: that costs a
    warning, never the picture. Raises `BadImageError` for what is cut short, damaged or beyond the limits."""
    import imagecodecs  # here because ComfyUI, which hands us tensors, need not have it

    head = file.read(_BEFORE_PIXELS)
    if head[8:16] != b"\0\0\0\x0dIHDR" or len(head) < HEADER_END:
        raise BadImageError("the PNG's header is damaged or cut short; copy or export it again")
    width, height = struct.unpack(">II", head[16:24])
    limits.check_size(width, height)
    if max(width, height) > _LONGEST_SIDE:
        raise BadImageError(f"has {width}x{height} pixels; sides up to {_LONGEST_SIDE} are read: cut it into pieces")
    if b"acTL" in head:
        refuse_sparse(file)
    else:
        check_file(size_of(file), width, height)
    data = read_whole(file, limits)
    pixels, frames = _pixels_alone(data)
    if len(pixels) * _DEFLATE_RATIO < height * (width * head[24] // 8):
        raise BadImageError(
            f"the picture is cut short: {width}x{height} pixels cannot be told in {len(pixels)} bytes; "
            "copy or export it again"
        )
    notes = [first_only(frames)] if frames > 1 else []
    return picture_of(imagecodecs.png_decode(pixels), carried_by(data, png_metadata.read), notes)


def _pixels_alone(data: bytes) -> tuple[bytes, int]:
    """A PNG of the first picture alone, and how many frames there are, 0 if it is not animated.

    libpng and Pillow have limits of their own for what lies beside, and refuse the picture with it: they do not get it.
    """
    pixels: list[bytes | memoryview] = [SIGNATURE]
    frames = 0
    for part in chunks(data):
        if part.name in _PIXEL_CHUNKS:
            frames = frames or part.name == b"IDAT"
            pixels += [
                struct.pack(">I4s", len(part.payload), part.name),
                part.payload,
                part.checksum.to_bytes(4, "big"),
            ]
        frames += part.name == b"fcTL"
    return b"".join(pixels), frames


def encode(picture: Picture) -> tuple[bytes, tuple[str, ...]]:
    """The file's bytes, of 8 or 16 bits a sample as the picture had them, 16 for floats; warnings."""
    encoded = encode_samples(levels(picture, min(picture.bits, 16)))
    return png_metadata.with_metadata(encoded, picture.metadata), lost_depth(picture, "PNG", 16)
