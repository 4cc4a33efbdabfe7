"""BMP: sizes and kind by its header, pixels by Pillow.

Source: Microsoft, "Bitmap Header Types" and BITMAPV5HEADER; OS/2 1.x and 2.x bitmaps.
"""

from __future__ import annotations

import struct
from typing import BinaryIO

from ...api.errors import BadImageError
from ..limits import DecodeLimits, check_file
from . import with_pillow
from .picture import Picture, picture_of
from .source import read_whole, size_of

_HEADER_END = 14 + 40 + 16  # with the masks of colours
_OS2_HEADER, _OS2_SECOND = 12, 64
_HEADERS = (_OS2_HEADER, 40, 52, 56, _OS2_SECOND, 108, 124)  # bytes
_BY_FIELDS = 3
_METHODS = {0: "uncompressed", 1: "RLE8", 2: "RLE4", _BY_FIELDS: "by fields of bits", 4: "JPEG inside", 5: "PNG inside"}
_METHODS_OF_OS2 = {**_METHODS, 3: "Huffman 1D", 4: "RLE24"}
_BITS = {0: (1, 4, 8, 16, 24, 32), 1: (8,), 2: (4,), _BY_FIELDS: (16, 24, 32)}  # by method
# Red, green and blue, of those that Pillow knows; where they lie otherwise it is told as a kind of its own.
_FIELDS = {
    16: ((0xF800, 0x7E0, 0x1F), (0x7C00, 0x3E0, 0x1F)),
    24: ((0xFF0000, 0xFF00, 0xFF),),
    32: (
        (0xFF0000, 0xFF00, 0xFF),
        (0xFF000000, 0xFF0000, 0xFF00),
        (0xFF000000, 0xFF00, 0xFF),
        (0xFF, 0xFF00, 0xFF0000),
        (0, 0, 0),
    ),
}
_CUT_SHORT = "the picture is cut short; copy or export it again"


def read(file: BinaryIO, limits: DecodeLimits) -> Picture:
    """Raises `BadImageError` for what is cut short, damaged, of a kind that is not supported, or beyond the limits."""
    head = file.read(_HEADER_END)
    if len(head) < 14 + _OS2_HEADER:
        raise BadImageError(_CUT_SHORT)
    (header,) = struct.unpack_from("<I", head, 14)
    if header not in _HEADERS:
        raise BadImageError(f"is a BMP with a header of {header} bytes, a kind that is not supported; save it as PNG")
    if header == _OS2_HEADER:
        width, height, _, bits = struct.unpack_from("<4H", head, 18)
        method = 0
    elif len(head) < 14 + 40:
        raise BadImageError(_CUT_SHORT)
    else:
        width, height, _, bits, method = struct.unpack_from("<iiHHI", head, 18)
    limits.check_size(width, abs(height))  # rows come from below, or from above where the height is negative
    _check_kind(head, header, bits, method)
    check_file(size_of(file), width, abs(height))
    samples, notes = with_pillow.decode("BMP", read_whole(file, limits))
    return picture_of(samples, 1, None, None, notes)


def _check_kind(head: bytes, header: int, bits: int, method: int) -> None:
    names = _METHODS_OF_OS2 if header == _OS2_SECOND else _METHODS
    supported = bits in _BITS.get(method, ()) and not (header == _OS2_SECOND and method == _BY_FIELDS)
    kind = f"{bits} bits a pixel, {names.get(method, f'compression {method}')}"
    if supported and method == _BY_FIELDS:
        fields = struct.unpack_from("<3I", head.ljust(_HEADER_END, b"\0"), 14 + 40)
        supported = fields in _FIELDS[bits]
        kind += " " + ", ".join(f"{mask:#x}" for mask in fields)
    if not supported:
        raise BadImageError(
            f"is a BMP of a kind that is not supported ({kind}); save it with 24 bits a pixel, or as PNG"
        )
