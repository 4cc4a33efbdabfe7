"""Picture files built byte by byte, for what no encoder writes: TIFF of any tags, PNG of any chunks."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping, Sequence
from itertools import accumulate

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_TIFF_TYPES = {"B": 1, "s": 2, "H": 3, "I": 4, "Q": 16}


def png_chunk(name: bytes, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload)) + name + payload + struct.pack(">I", zlib.crc32(name + payload))


def png(size: tuple[int, int], rows: bytes, kind: tuple[int, int] = (8, 0), beside: bytes = b"") -> bytes:
    """A PNG of (width, height), whose `rows` begin with their filter's byte; `kind` is bits and colour type; `beside`
    are chunks between header and pixels."""
    header = struct.pack(">IIBBBBB", *size, *kind, 0, 0, 0)
    pixels = png_chunk(b"IDAT", zlib.compress(rows))
    return PNG_SIGNATURE + png_chunk(b"IHDR", header) + beside + pixels + png_chunk(b"IEND", b"")


def tiff(
    tags: Mapping[int, tuple[str, Sequence[int] | bytes]],
    pieces: Sequence[bytes] = (b"\0",),
    order: str = "<",
    big: bool = False,
    following: int = 0,
) -> bytes:
    """A TIFF of one directory: `tags` [number] -> (struct letter, values); strips or tiles of `pieces`, whose places
    are filled in. `following` is where the next directory is said to be."""
    wide = "Q" if big else "I"
    head = (b"II" if order == "<" else b"MM") + struct.pack(order + "H", 43 if big else 42)
    head += struct.pack(order + "HHQ", 8, 0, 16) if big else struct.pack(order + "I", 8)
    places = (324, 325) if 322 in tags else (273, 279)
    lengths = [len(piece) for piece in pieces]
    entries = {places[0]: (wide, [0] * len(pieces)), places[1]: (wide, lengths), **tags}
    length = (20 if big else 12) * len(entries)
    start = len(head) + (8 if big else 2) + length + (8 if big else 4)  # of what does not fit an entry
    beyond = b""

    def encoded(letter: str, values: Sequence[int] | bytes) -> bytes:
        return values if isinstance(values, bytes) else struct.pack(f"{order}{len(values)}{letter}", *values)

    inline = 8 if big else 4
    total = sum(len(data) for data in (encoded(*entry) for entry in entries.values()) if len(data) > inline)
    at = start + total
    if tags.get(places[0]) is None:
        entries[places[0]] = (wide, [at + before for before in accumulate(lengths[:-1], initial=0)])
    table = struct.pack(order + ("Q" if big else "H"), len(entries))
    for tag, (letter, values) in sorted(entries.items()):
        data = encoded(letter, values)
        count = len(values) if letter != "s" else len(data)
        table += struct.pack(order + "HH" + wide, tag, _TIFF_TYPES[letter], count)
        if len(data) <= inline:
            table += data.ljust(inline, b"\0")
        else:
            table += struct.pack(order + wide, start + len(beyond))
            beyond += data
    return head + table + struct.pack(order + wide, following) + beyond + b"".join(pieces)


def jpeg_segment(marker: int, payload: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(payload) + 2) + payload


def webp_part(name: bytes, payload: bytes) -> bytes:
    return name + struct.pack("<I", len(payload)) + payload + b"\0" * (len(payload) % 2)


def webp(parts: bytes) -> bytes:
    return b"RIFF" + struct.pack("<I", len(parts) + 4) + b"WEBP" + parts


def webp_canvas(width: int, height: int, flags: int = 0) -> bytes:
    sides = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    return webp_part(b"VP8X", bytes([flags, 0, 0, 0]) + sides)


def bmp(size: tuple[int, int], bits: int, method: int, data: bytes, beside: bytes = b"") -> bytes:
    """A BMP with Windows' header of 40 bytes; `beside` are palette or fields of bits."""
    start = 54 + len(beside)
    header = struct.pack("<IiiHHIIiiII", 40, *size, 1, bits, method, 0, 0, 0, len(beside) // 4 if bits <= 8 else 0, 0)
    return b"BM" + struct.pack("<IHHI", start + len(data), 0, 0, start) + header + beside + data


def gif(screen: tuple[int, int], frames: Sequence[bytes], flags: int = 0x80, beside: bytes = b"") -> bytes:
    """A GIF of two colours, black and white, unless `flags` say otherwise."""
    table = b"\0\0\0\xff\xff\xff" if flags & 0x80 else b""
    return b"GIF89a" + struct.pack("<HHBBB", *screen, flags, 0, 0) + table + beside + b"".join(frames) + b";"


def gif_frame(place: tuple[int, int, int, int], data: bytes) -> bytes:
    """A frame of (left, top, width, height); `data` are codes of two bits and more."""
    blocks = b"".join(bytes([len(data[at : at + 255])]) + data[at : at + 255] for at in range(0, len(data), 255))
    return b"," + struct.pack("<4H", *place) + b"\0\x02" + blocks + b"\0"
