"""BMP: sizes and kind by its header; pixels by Pillow, and by us where their colours lie in fields of bits.

Source: Microsoft, "Bitmap Header Types" and BITMAPV5HEADER; OS/2 1.x and 2.x bitmaps.
"""

from __future__ import annotations

import math
import struct
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from ...api.errors import BadImageError
from ..limits import DecodeLimits, check_file
from . import bmp_metadata, with_pillow
from .metadata import carried_by
from .picture import Picture, picture_of
from .source import read_whole, size_of

_FILE_HEADER = 14  # bytes; the fields of bits are 40 behind it, in the header of the picture or following it
_HEADER_LEAST = _FILE_HEADER + 12
_HEADER_END = _FILE_HEADER + 40 + 16
_OS2_HEADER, _OS2_SECOND, _WITH_ALPHA = 12, 64, 56
_HEADERS = (_OS2_HEADER, 40, 52, _WITH_ALPHA, _OS2_SECOND, 108, 124)  # bytes
_BY_FIELDS, _BY_FOUR_FIELDS = 3, 6
_METHODS = {
    0: "uncompressed", 1: "RLE8", 2: "RLE4", _BY_FIELDS: "by fields of bits", 4: "JPEG inside", 5: "PNG inside",
    _BY_FOUR_FIELDS: "by four fields of bits",
}  # fmt: skip
_METHODS_OF_OS2 = {**_METHODS, 3: "Huffman 1D", 4: "RLE24"}
_BITS = {0: (1, 4, 8, 16, 24, 32), 1: (8,), 2: (4,), _BY_FIELDS: (16, 32), _BY_FOUR_FIELDS: (16, 32)}  # by method
_CUT_SHORT = "the picture is cut short; copy or export it again"


def read(file: BinaryIO, limits: DecodeLimits) -> Picture:
    """Raises `BadImageError` for what is cut short, damaged, of a kind that is not supported, or beyond the limits."""
    head = file.read(_HEADER_END)
    if len(head) < _FILE_HEADER + _OS2_HEADER:
        raise BadImageError(_CUT_SHORT)
    (header,) = struct.unpack_from("<I", head, _FILE_HEADER)
    if header not in _HEADERS:
        raise BadImageError(f"is a BMP with a header of {header} bytes, a kind that is not supported; save it as PNG")
    if header == _OS2_HEADER:
        width, height, _, bits = struct.unpack_from("<4H", head, 18)
        method = 0
    elif len(head) < _FILE_HEADER + 40:
        raise BadImageError(_CUT_SHORT)
    else:
        width, height, _, bits, method = struct.unpack_from("<iiHHI", head, 18)
    limits.check_size(width, abs(height))  # rows come from below, or from above where the height is negative
    names = _METHODS_OF_OS2 if header == _OS2_SECOND else _METHODS
    if bits not in _BITS.get(method, ()) or (header == _OS2_SECOND and method == _BY_FIELDS):
        raise BadImageError(
            f"is a BMP of a kind that is not supported ({bits} bits a pixel, "
            f"{names.get(method, f'compression {method}')}); save it with 24 bits a pixel, or as PNG"
        )
    check_file(size_of(file), width, abs(height))
    data = read_whole(file, limits)
    carried = carried_by(data, bmp_metadata.read)
    if method in (_BY_FIELDS, _BY_FOUR_FIELDS):
        fields = struct.unpack_from("<4I", head.ljust(_HEADER_END, b"\0"), _FILE_HEADER + 40)
        has_alpha = (header >= _WITH_ALPHA or method == _BY_FOUR_FIELDS) and fields[3]
        return picture_of(_by_fields(data, (width, height, bits), fields[: 4 if has_alpha else 3]), carried)
    if method == 0 and len(data) < _HEADER_LEAST + abs(height) * (width * bits // 8):
        raise BadImageError(_CUT_SHORT)  # before Pillow makes room for all of it
    samples, notes = with_pillow.decode("BMP", data)
    return picture_of(samples, carried, notes)


def _by_fields(data: bytes, form: tuple[int, int, int], fields: tuple[int, ...]) -> NDArray[np.uint8]:
    """[H, W, C] of pixels of 16 or 32 bits, each channel in the bits of its field; `form` is width, height and bits."""
    width, height, bits = form
    (start,) = struct.unpack_from("<I", data, 10)
    row = math.ceil(width * bits / 32) * 32 // bits  # pixels, with those that fill the row up to four bytes
    if len(data) < start + abs(height) * row * bits // 8:
        raise BadImageError(_CUT_SHORT)
    pixels = np.frombuffer(data, f"<u{bits // 8}", abs(height) * row, start).reshape(-1, row)[:, :width]
    samples = np.empty((abs(height), width, len(fields)), np.uint8)
    for channel, field in enumerate(fields):
        lowest = field & -field
        top = field // max(lowest, 1)
        if not lowest or top & (top + 1):
            raise BadImageError(f"the BMP is damaged: its field of bits {field:#x} is not one; export it again")
        values = (pixels & field) // lowest
        samples[..., channel] = np.rint(values * (255 / top))
    return samples if height < 0 else samples[::-1]
