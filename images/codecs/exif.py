"""EXIF: the orientation taken out of it, and the rest kept; never more work than its size warrants.

Source: CIPA DC-008 (Exif 3.0), TIFF 6.0.
"""

from __future__ import annotations

import re
import struct
import warnings

from PIL import Image

_ORIENTATION, _SUB_DIRECTORY = 0x0112, 0x8769
_DIRECTORIES = (_SUB_DIRECTORY, 0x8825, 0xA005)  # EXIF, GPS, interoperability
_MOST_DIRECTORIES = 8
_VERSION = 42
_SIZES = (0xA002, 0xA003)  # PixelXDimension, PixelYDimension: the pixels tell better
_PREFIX = b"Exif\0\0"
_TYPE_BYTES = (0, 1, 1, 2, 4, 8, 1, 1, 2, 4, 8, 4, 8, 4, 0, 0, 8, 8, 8)
_LARGEST = 4 << 20  # bytes of a block; JPEG's end at 64 KB, makers' notes may have more elsewhere
_XMP_ORIENTATION = re.compile(rb'tiff:Orientation(?:="|>)([1-8])')


def upright_exif(block: bytes | None, xmp: bytes | None = None) -> tuple[int, bytes | None, list[str]]:
    """Orientation (1..8, from `xmp` where the block has none), the block without it and without sizes, and warnings.

    `block` may begin with b"Exif\\0\\0" or not; what is returned does. Damaged or oversized blocks are left out.
    """
    orientation, kept, notes = None, None, []
    if block:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # that it ends early: what is there of it is kept
                orientation, kept = _taken_apart(block.removeprefix(_PREFIX))
        except Exception:  # broken metadata raise all sorts, and must not cost the picture
            notes = ["its EXIF data is damaged and was left out"]
    found = _XMP_ORIENTATION.search(xmp) if xmp and orientation is None else None
    return int(found[1]) if found else orientation or 1, kept, notes


def _taken_apart(block: bytes) -> tuple[int | None, bytes | None]:
    if len(block) > _LARGEST or _claimed(block) > 2 * len(block) + 4096:
        raise ValueError("values that overlap, or too many of them")
    exif = Image.Exif()
    exif.load(_PREFIX + block)
    orientation = exif.pop(_ORIENTATION, None)
    if _SUB_DIRECTORY in exif:
        for tag in _SIZES:
            exif.get_ifd(_SUB_DIRECTORY).pop(tag, None)
    return orientation if orientation in range(1, 9) else None, exif.tobytes() if len(exif) else None


def _claimed(block: bytes) -> int:
    """Bytes of all values of the directories that are read; those of a whole block fit into it once."""
    order = "<" if block[:2] == b"II" else ">"
    version, start = struct.unpack_from(order + "HI", block, 2)
    if version != _VERSION:
        raise ValueError(f"version {version}")
    total, starts = 0, [start]
    for start in starts:  # grows meanwhile
        (count,) = struct.unpack_from(order + "H", block, start)
        for index in range(min(count, (len(block) - start) // 12)):
            tag, kind, length, value = struct.unpack_from(order + "HHII", block, start + 2 + 12 * index)
            total += length * (_TYPE_BYTES[kind] if kind < len(_TYPE_BYTES) else 1)
            if tag in _DIRECTORIES:
                starts.append(value)
        if len(starts) > _MOST_DIRECTORIES:
            raise ValueError("too many directories")
    return total
