"""What a BMP carries beside its pixels: a resolution, and in its latest version a colour profile.

Source: Microsoft's BITMAPV5HEADER.
"""

from __future__ import annotations

import struct

from .metadata import LARGEST, Metadata, Stored

_FILE_HEADER, _V3, _V5 = 14, 40, 124  # sizes in bytes
_EMBEDDED, _LINKED, _CALIBRATED = b"DEBM", b"KNIL", bytes(4)  # kinds of colour space, as little endian has them
_INCH = 0.0254  # metres


def read(data: bytes) -> Stored:
    size = int.from_bytes(data[_FILE_HEADER : _FILE_HEADER + 4], "little")
    if size < _V3 or len(data) < _FILE_HEADER + size:
        return Stored()
    across, down = struct.unpack_from("<ii", data, _FILE_HEADER + 24)
    resolution = (across * _INCH, down * _INCH) if across > 0 and down > 0 else None
    icc, notes = None, ()
    kind = data[_FILE_HEADER + 56 : _FILE_HEADER + 60] if size >= _V5 else b""
    if kind == _EMBEDDED:
        start, length = struct.unpack_from("<II", data, _FILE_HEADER + 112)
        icc = data[_FILE_HEADER + start :][: min(length, LARGEST)] or None
    elif kind == _LINKED or (kind == _CALIBRATED and any(data[_FILE_HEADER + 60 : _FILE_HEADER + 108])):
        notes = ("its description of colours is of a kind that is not read; colours may differ",)
    return Stored(Metadata(icc=icc, resolution=resolution), notes=notes)
