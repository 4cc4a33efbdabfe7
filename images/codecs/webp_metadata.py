"""What a WebP carries beside its pixels, and the container of the format: RIFF chunks.

Source: WebP container specification (Google, 2023).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from . import exif as exif_block
from .exif import Exif
from .icc import profile_for
from .metadata import Metadata, Stored
from .text import into_exif, read_texts, unkept

HEADER_END = 12  # RIFF, size, WEBP
_PROFILE, _EXIF, _XMP = b"ICCP", b"EXIF", b"XMP "
_STORED_CHANNELS = 3  # grey is stored as RGB


def is_webp(data: bytes) -> bool:
    return data[:4] == b"RIFF" and data[8:HEADER_END] == b"WEBP"


def chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Name and payload of each; what breaks off ends them."""
    place = HEADER_END
    while place + 8 <= len(data):
        name, size = struct.unpack_from("<4sI", data, place)
        yield name, data[place + 8 : place + 8 + size]
        place += 8 + size + size % 2


def chunk(name: bytes, payload: bytes) -> bytes:
    return struct.pack("<4sI", name, len(payload)) + payload + b"\0" * (len(payload) % 2)


def read(data: bytes) -> Stored:
    """Colour profile, EXIF and XMP."""
    found: dict[bytes, bytes] = {}
    for name, payload in chunks(data):
        if name in (_PROFILE, _EXIF, _XMP) and payload:
            found.setdefault(name, payload)
    return Stored(Metadata(icc=found.get(_PROFILE)), found.get(_EXIF), found.get(_XMP))


def fitted(metadata: Metadata) -> tuple[Metadata, tuple[str, ...]]:
    """`metadata` in the three places that a WebP has, profile, EXIF and XMP; and warnings about the rest."""
    texts, lost = read_texts(metadata.text)
    exif, more = into_exif(texts, metadata.exif or Exif())
    if metadata.resolution:
        exif = exif_block.with_resolution(exif, *metadata.resolution)
    icc, notes = profile_for(metadata, _STORED_CHANNELS, "WebP")
    fitting = Metadata(icc=icc, exif=exif if exif.directories else None, xmp=metadata.xmp)
    return fitting, (*notes, *unkept("WebP", [*lost, *more], metadata.private))
