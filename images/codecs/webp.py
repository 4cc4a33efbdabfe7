"""WebP: the parts of its container, its sizes, pixels by libwebp.

Source: RFC 9649, WebP Image Format.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

from ...api.errors import BadImageError
from ..limits import DecodeLimits, check_file
from . import webp_metadata
from .metadata import carried_by
from .picture import Picture, first_only, picture_of
from .source import read_whole, refuse_sparse, size_of

_HEADER_END = 12  # RIFF, length, WEBP
_MOST_PARTS = 1 << 16
_ANIMATED, _ALPHA = 2, 16  # among the flags of the extended header
_SHORTEST_LOSSLESS = 5  # bytes of its header; the others' have 10
_CUT_SHORT = "the picture is cut short; copy or export it again"


def parts(data: bytes) -> Iterator[tuple[bytes, memoryview]]:
    """Name and payload of each part of the container, in order; payloads are views, not copies.

    Raises `BadImageError` where the container or a part reaches beyond the end of the file, or a part is one too many
    (2**16).
    """
    view, place = memoryview(data), _HEADER_END
    end = 8 + int.from_bytes(data[4:8], "little")
    if len(data) < end:
        raise BadImageError(_CUT_SHORT)
    for _ in range(_MOST_PARTS):
        if place + 8 > end:
            return
        length = int.from_bytes(view[place + 4 : place + 8], "little")
        if place + 8 + length > end:
            raise BadImageError(_CUT_SHORT)
        yield bytes(view[place : place + 4]), view[place + 8 : place + 8 + length]
        place += 8 + length + length % 2
    raise BadImageError(f"the WebP has more than {_MOST_PARTS} parts, the limit; export it again")


def read(file: BinaryIO, limits: DecodeLimits) -> Picture:
    """The picture, of an animation the first frame. Raises `BadImageError` for what is cut short, damaged or beyond
    the limits."""
    import imagecodecs  # here because ComfyUI, which hands us tensors, need not have it

    head = file.read(_HEADER_END + 18)
    width, height = _size(head[12:16], head[20:])
    limits.check_size(width, height)
    if head[12:16] == b"VP8X" and head[20] & _ANIMATED:
        refuse_sparse(file)
    else:
        check_file(size_of(file), width, height)
    data = read_whole(file, limits)
    frames = 0
    for name, payload in parts(data):
        frames += name == b"ANMF"
        if name in (b"VP8 ", b"VP8L"):  # libwebp takes no other size than the canvas's
            limits.check_size(*_size(name, payload))
    alpha = head[12:16] == b"VP8X" and head[20] & _ALPHA
    samples = imagecodecs.webp_decode(data, hasalpha=True if alpha else None)
    notes = [first_only(frames)] if frames > 1 else []
    return picture_of(samples, carried_by(data, webp_metadata.read), notes)


def size(data: bytes) -> tuple[int, int]:
    """(width, height) as the first header tells them."""
    return _size(data[12:16], data[20:30])


def _size(name: bytes, payload: bytes | memoryview) -> tuple[int, int]:
    """(width, height) as the header of an image, or of the whole canvas, tells them."""
    if len(payload) < (_SHORTEST_LOSSLESS if name == b"VP8L" else 10):
        raise BadImageError(_CUT_SHORT)
    if name == b"VP8X":
        return int.from_bytes(payload[4:7], "little") + 1, int.from_bytes(payload[7:10], "little") + 1
    if name == b"VP8 ":
        return int.from_bytes(payload[6:8], "little") & 0x3FFF, int.from_bytes(payload[8:10], "little") & 0x3FFF
    if name == b"VP8L":
        bits = int.from_bytes(payload[1:5], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    raise BadImageError("the WebP's header is damaged; copy or export it again")
