"""What a picture carries beside its pixels: one form for all formats, cleaned of what the new pixels make wrong."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, replace
from io import BytesIO
from typing import TypeVar

from . import exif as exif_block
from . import xmp as xmp_packet
from .exif import Exif

LARGEST = 32 << 20  # bytes of one profile, packet or text; real ones are hundreds of times smaller
MOST_TEXTS = 4096
_EXIF_PREFIX = b"Exif\0\0"
_LEAST_RESOLUTION, _MOST_RESOLUTION = 0.02, 1e6  # a pixel a metre; forty a micrometre
_LEAST_PROFILE = 128  # bytes, of its header

Chunk = tuple[bytes, bytes]  # of a PNG: its name, and what is in it
Resolution = tuple[float, float]  # pixels an inch, across and down


@dataclass(frozen=True)
class Metadata:
    """What an upright picture carries.

    `icc` is a colour profile; `exif` and `xmp` are without orientation, sizes and thumbnails, which the pixels tell
    better. `resolution` is the number that programs call dpi: it stays the same, so the larger picture prints larger.
    Comments and texts of all formats are `text`, as the chunks of a PNG that they are or would be. `colour` and
    `private` are such chunks, too: what they are for only PNG can tell.
    """

    icc: bytes | None = None
    exif: Exif | None = None
    xmp: bytes | None = None
    resolution: Resolution | None = None
    text: tuple[Chunk, ...] = ()
    colour: tuple[Chunk, ...] = ()
    private: tuple[Chunk, ...] = ()


@dataclass(frozen=True)
class Stored:
    """What was found in a file: `metadata` but for `exif` and `xmp`, which are as they are stored."""

    metadata: Metadata = Metadata()
    exif: bytes | Exif | None = None
    xmp: bytes | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Carried:
    """What goes with the upright pixels, how to turn them upright (an EXIF orientation), and warnings."""

    metadata: Metadata = Metadata()
    orientation: int = 1
    notes: tuple[str, ...] = ()


Source = TypeVar("Source")


def carried_by(source: Source, read: Callable[[Source], Stored]) -> Carried:
    """What goes with the upright pixels of `source`, in which `read` finds it. It never costs the picture."""
    try:
        return _clean(read(source))
    except (ArithmeticError, LookupError, ValueError, struct.error):
        return Carried(notes=("its metadata is damaged and was left out",))


def without_profile(carried: Carried) -> Carried:
    """For pixels that were converted without it."""
    return replace(carried, metadata=replace(carried.metadata, icc=None))


def _clean(stored: Stored) -> Carried:
    """What `stored` gives without what new pixels make wrong. What is broken costs itself and a warning."""
    notes = list(stored.notes)
    exif, turned = _exif(stored.exif, notes)
    xmp, turned_by_xmp = _xmp(stored.xmp, notes)
    icc = stored.metadata.icc
    if icc is not None and not _LEAST_PROFILE <= len(icc) <= LARGEST:
        icc = None
        notes.append("its colour profile is damaged, or too large to be one, and was left out")
    orientation = turned if turned != 1 else turned_by_xmp
    resolution = stored.metadata.resolution
    if resolution and orientation >= 5:
        resolution = resolution[::-1]
    resolution = resolution or (exif_block.resolution(exif) if exif else None)
    if resolution and not all(_LEAST_RESOLUTION <= value <= _MOST_RESOLUTION for value in resolution):
        resolution = None
        notes.append("its resolution (dpi) is none of any print and was left out")
    metadata = replace(stored.metadata, icc=icc, exif=exif, xmp=xmp, resolution=resolution)
    return Carried(metadata, orientation, tuple(notes))


def _exif(block: bytes | Exif | None, notes: list[str]) -> tuple[Exif | None, int]:
    if not block:
        return None, 1
    if isinstance(block, bytes):
        try:
            while block.startswith(_EXIF_PREFIX):  # some programs write it twice
                block = block[len(_EXIF_PREFIX) :]
            block, whole = exif_block.parse(BytesIO(block), skip=exif_block.LAYOUT)
        except ValueError:
            notes.append("its EXIF data is damaged and was left out")
            return None, 1
        if not whole:
            notes.append("parts of its EXIF data are damaged and were left out")
    exif, orientation = exif_block.without_what_is_stale(block)
    return exif if exif.directories else None, orientation


def _xmp(packet: bytes | None, notes: list[str]) -> tuple[bytes | None, int]:
    if not packet:
        return None, 1
    try:
        if len(packet) > LARGEST:
            raise ValueError("too large")
        packet = packet.rstrip(b"\0")
        if b"\0" in packet:  # no XML, and the end of a text for many a reader
            raise ValueError("a zero")
        return xmp_packet.without_what_is_stale(packet)
    except ValueError:
        notes.append("its XMP data is damaged and was left out")
        return None, 1
