"""What a JPEG carries beside its pixels: found in its segments, and made segments again.

Source: ITU-T T.81, JFIF 1.02, CIPA DC-008 for EXIF, ISO 16684-3 for XMP, ICC.1 annex B for profiles.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence

from .exif import Exif, to_bytes
from .icc import profile_for
from .metadata import LARGEST, MOST_TEXTS, Chunk, Metadata, Resolution, Stored
from .text import COMMENT, Text, comment_chunk, into_exif, read_texts, unkept

_APP0, _APP1, _APP2, _APP11, _APP13, _COMMENT = 0xE0, 0xE1, 0xE2, 0xEB, 0xED, 0xFE
_JFIF, _EXIF, _ICC = b"JFIF\0", b"Exif\0\0", b"ICC_PROFILE\0"
_XMP, _MORE_XMP = b"http://ns.adobe.com/xap/1.0/\0", b"http://ns.adobe.com/xmp/extension/\0"
_IPTC = b"8BIM\x04\x04"
_ROOM = 65533  # bytes in one segment, without its length
_NO_UNIT, _INCH, _CENTIMETRE = 0, 1, 2
_FIRST = 4  # where the length of the first segment stands
_DENSITY = slice(13, 18)  # of a file that begins with a JFIF segment: the unit, across, down


def read(segments: Sequence[tuple[int, bytes]]) -> Stored:
    """Comments, EXIF, XMP, colour profile and resolution, of markers and what is in their segments."""
    exif: list[bytes] = []
    profile: dict[int, bytes] = {}
    comments: list[Chunk] = []
    resolution: Resolution | None = None
    private: tuple[Chunk, ...] = ()
    xmp, notes = None, set()
    for marker, payload in segments:
        if marker == _COMMENT and len(comments) < MOST_TEXTS:
            comments.append(comment_chunk(payload))
        elif marker == _APP0 and payload.startswith(_JFIF) and len(payload) >= 12:
            resolution, private = _density(payload)
        elif marker == _APP1 and payload.startswith(_EXIF):
            exif.append(payload[len(_EXIF) :])  # where there are several, they are parts of one
        elif marker == _APP1 and payload.startswith(_XMP):
            xmp = xmp or payload[len(_XMP) :]
        elif marker == _APP1 and payload.startswith(_MORE_XMP):
            notes.add("the part of its XMP data that did not fit one segment was left out")
        elif marker == _APP2 and payload.startswith(_ICC):
            profile.setdefault(payload[12] if len(payload) > 12 else 0, payload[14:])
        elif marker == _APP13 and _IPTC in payload:
            notes.add("its IPTC data was left out")
        elif marker == _APP11 and payload.startswith(b"JP"):
            notes.add("its content credentials (C2PA), which hold for the old pixels only, were left out")
    icc = b"".join(profile[number] for number in sorted(profile)) or None
    metadata = Metadata(icc=icc, resolution=resolution, text=tuple(comments), private=private)
    return Stored(metadata, b"".join(exif)[:LARGEST] or None, xmp, tuple(sorted(notes)))


def _density(jfif: bytes) -> tuple[Resolution | None, tuple[Chunk, ...]]:
    """Pixels an inch; or, without a unit, the shape of a pixel, as the chunk that a PNG has for it."""
    unit, across, down = struct.unpack(">BHH", jfif[7:12])
    if not across or not down:
        return None, ()
    if unit in (_INCH, _CENTIMETRE):
        inch = 2.54 if unit == _CENTIMETRE else 1.0
        return (across * inch, down * inch), ()
    return None, ((b"pHYs", struct.pack(">IIB", across, down, 0)),) if across != down else ()


def with_metadata(encoded: bytes, metadata: Metadata, channels: int) -> tuple[bytes, tuple[str, ...]]:
    """The JPEG file `encoded`, of 1 or 3 channels, with what it can hold of `metadata`; and warnings."""
    texts, lost = read_texts(metadata.text)
    comments = [text for text in texts if _is_comment(text)]
    exif, more = into_exif(
        (text for text in texts if not _is_comment(text)), metadata.exif or Exif(), _ROOM - len(_EXIF)
    )
    icc, misfit = profile_for(metadata, channels, "JPEG")
    notes = [*misfit, *unkept("JPEG", [*lost, *more], metadata.private)]
    beside = []
    if exif.directories:
        block = _EXIF + to_bytes(exif)
        if len(block) <= _ROOM:
            beside.append((_APP1, block))
        else:
            notes.append(f"EXIF data beyond {_ROOM} bytes does not fit a JPEG; it was left out")
    if metadata.xmp:
        if len(_XMP + metadata.xmp) <= _ROOM:
            beside.append((_APP1, _XMP + metadata.xmp))
        else:
            notes.append(f"XMP data beyond {_ROOM} bytes does not fit a JPEG; it was left out")
    if icc:
        parts = _parts_of_a_profile(icc)
        beside += [(_APP2, part) for part in parts]
        if not parts:
            notes.append("the colour profile is too large for a JPEG; it was left out, colours may differ")
    beside += [(_COMMENT, text.raw) for text in comments]
    return _insert(encoded, beside, metadata.resolution), tuple(notes)


def _is_comment(text: Text) -> bool:
    return text.keyword == COMMENT and len(text.raw) <= _ROOM


def _parts_of_a_profile(icc: bytes) -> list[bytes]:
    room = _ROOM - len(_ICC) - 2
    count = -(-len(icc) // room)
    if count > 255:
        return []
    return [_ICC + bytes([n + 1, count]) + icc[n * room : (n + 1) * room] for n in range(count)]


def _insert(encoded: bytes, beside: Iterable[tuple[int, bytes]], resolution: Resolution | None) -> bytes:
    end = _FIRST + int.from_bytes(encoded[_FIRST : _FIRST + 2], "big") if encoded[3] == _APP0 else 2
    head = bytearray(encoded[:end])
    if resolution and end > _DENSITY.stop:
        across, down = (min(max(round(value), 1), 65535) for value in resolution)
        head[_DENSITY] = struct.pack(">BHH", _INCH, across, down)
    made = b"".join(struct.pack(">BBH", 0xFF, marker, len(payload) + 2) + payload for marker, payload in beside)
    return bytes(head) + made + encoded[end:]
