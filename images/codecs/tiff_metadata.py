"""What a TIFF carries beside its pixels: found in its first directory, and put into one again.

An EXIF block is laid out as a TIFF is, so the same code reads and writes both.
"""

from __future__ import annotations

import struct
from dataclasses import replace
from io import BytesIO
from typing import BinaryIO, Literal

from . import exif as block
from .exif import MAIN, Exif, Field
from .metadata import Metadata, Stored
from .text import into_exif, named, read_texts, unkept

_BYTE = 1
_XMP, _IPTC, _PROFILE = 0x02BC, 0x83BB, 0x8773
_RESOLUTION = (block.X_RESOLUTION, block.Y_RESOLUTION, block.RESOLUTION_UNIT)
# Tags that tell of the picture and not of the file: its name, description, maker, program, date, artist, computer,
# rights, rating; Windows has five more of the kind.
_DESCRIPTION = 0x010E
_KEPT = frozenset({0x010D, _DESCRIPTION, 0x010F, 0x0110, 0x0131, 0x0132, 0x013B, 0x013C, 0x4746, 0x4749, 0x8298})
_KEPT |= {*range(0x9C9B, 0x9CA0), *_RESOLUTION, block.ORIENTATION}
_NOT_READ = block.LAYOUT - {_XMP, _IPTC, _PROFILE}
_OF_TIFFFILE = (b'{"shape"', b"shape=")  # nothing else is in them
_DESCRIPTIONS_OF_PAGES = (*_OF_TIFFFILE, b"ImageJ=", b"<OME", b"<?xml")


def read(file: BinaryIO) -> Stored:
    """Colour profile, XMP, EXIF and the tags that tell of the picture."""
    exif, whole = block.parse(file, skip=_NOT_READ)
    main = dict(exif.directories[MAIN])
    icc, xmp, iptc = (main.pop(tag, None) for tag in (_PROFILE, _XMP, _IPTC))
    notes = [] if whole else ["parts of its metadata are damaged and were left out"]
    if iptc:
        notes.append("its IPTC data was left out")
    unknown = sorted(main.keys() - _KEPT)
    if unknown:
        notes.append(f"TIFF tags that may not hold for other pixels were left out: {named(map(str, unknown))}")
    if _DESCRIPTION in main and main[_DESCRIPTION].data.startswith(_DESCRIPTIONS_OF_PAGES):
        if not main[_DESCRIPTION].data.startswith(_OF_TIFFFILE):
            notes.append("its description, which tells how its pages lie, was left out")
        del main[_DESCRIPTION]
    kept = {tag: value for tag, value in main.items() if tag in _KEPT}
    exif = replace(exif, directories={**exif.directories, MAIN: kept})
    return Stored(Metadata(icc=icc.data if icc else None), exif, xmp.data if xmp else None, tuple(notes))


def byte_order(metadata: Metadata) -> Literal["<", ">"]:
    """The order that the TIFF must have, so that EXIF values can stay the bytes that they are."""
    return metadata.exif.order if metadata.exif else "<"


def with_metadata(encoded: bytes, metadata: Metadata) -> tuple[bytes, tuple[str, ...]]:
    """The TIFF file `encoded`, of `byte_order` and with its profile, with the rest of `metadata`; and warnings."""
    texts, lost = read_texts(metadata.text)
    exif, more = into_exif(texts, metadata.exif or Exif(byte_order(metadata)))
    notes = unkept("TIFF", [*lost, *more], metadata.private)
    if metadata.resolution:
        exif = block.with_resolution(exif, *metadata.resolution)
    if metadata.xmp:
        exif = exif.set(MAIN, _XMP, Field(_BYTE, metadata.xmp))
    if not exif.directories:
        return encoded, tuple(notes)
    if encoded[2:4] not in (b"*\0", b"\0*"):
        return encoded, (*notes, "a TIFF of more than 4 GB gets no EXIF, XMP, resolution or text from us")
    written, _ = block.parse(BytesIO(encoded))
    main = {**exif.directories.get(MAIN, {}), **written.directories[MAIN]}
    for tag in _RESOLUTION:  # tifffile writes its own, of 1 and no unit
        main[tag] = exif.get(MAIN, tag) or main[tag]
    start = len(encoded) + len(encoded) % 2
    behind = block.lay_out(replace(exif, directories={**exif.directories, MAIN: main}), start)
    head = encoded[:4] + struct.pack(f"{exif.order}I", start)
    return head + encoded[8:].ljust(start - 8, b"\0") + behind, tuple(notes)
