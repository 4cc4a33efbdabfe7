"""GIF: sizes of its screen and its first frame, pixels by Pillow.

Source: CompuServe, Graphics Interchange Format, version 89a (1990).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import BinaryIO

from ...api.errors import BadImageError
from ..limits import DecodeLimits
from . import gif_metadata, with_pillow
from .metadata import carried_by
from .picture import Picture, first_only, picture_of
from .source import read_whole, refuse_sparse

_HEADER_END = 13
_EXTENSION, _FRAME, _END = 0x21, 0x2C, 0x3B
_MOST_FRAMES = 1 << 16
_CUT_SHORT = "the picture is cut short; copy or export it again"


def frames(data: bytes) -> Iterator[tuple[int, int, int, int]]:
    """(left, top, width, height) of each frame, in order. Ends quietly where the file does.

    Raises `BadImageError` for more than 2**16 frames.
    """
    place, count = _HEADER_END + _colours(data[10]), 0
    while place + 10 <= len(data) and data[place] != _END:
        if data[place] == _FRAME:
            count += 1
            if count > _MOST_FRAMES:
                raise BadImageError(f"has more than {_MOST_FRAMES} frames, the limit")
            yield struct.unpack_from("<4H", data, place + 1)
            place = _after_blocks(data, place + 10 + _colours(data[place + 9]) + 1)
        elif data[place] == _EXTENSION:
            place = _after_blocks(data, place + 2)
        else:
            place += 1  # as decoders do


def _colours(flags: int) -> int:
    """Bytes of the table of colours, by the byte that tells of it."""
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def _after_blocks(data: bytes, place: int) -> int:
    while place < len(data) and data[place]:
        place += data[place] + 1
    return place + 1


def read(file: BinaryIO, limits: DecodeLimits) -> Picture:
    """The first frame, on the screen's size. Raises `BadImageError` for what is cut short, damaged or beyond the
    limits."""
    head = file.read(_HEADER_END)
    if len(head) < _HEADER_END:
        raise BadImageError(_CUT_SHORT)
    width, height = struct.unpack_from("<2H", head, 6)
    limits.check_size(width, height)
    refuse_sparse(file)
    data = read_whole(file, limits)
    found = list(frames(data))
    if not found:
        raise BadImageError(_CUT_SHORT)
    for left, top, across, down in found:
        limits.check_size(across, down)
        limits.check_size(max(width, left + across), max(height, top + down))  # decoders enlarge the screen
    samples, notes = with_pillow.decode("GIF", data)
    notes += [first_only(len(found))] if len(found) > 1 else []
    return picture_of(samples, carried_by(data, gif_metadata.read), notes)
