"""EXIF blocks: read within bounds, freed of what a new picture makes wrong, and written again.

Values stay the bytes that they are; only directories are laid out anew. A maker's own note keeps its bytes, too, but
what it points to by place may be found no more. Source: CIPA DC-008 (Exif 2.32), TIFF 6.0.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import BinaryIO, Literal

MAIN, PHOTO, GPS, INTEROP = 0, 0x8769, 0x8825, 0xA005  # directories, by the tag that points to them; the first by none
_INSIDE = {PHOTO: MAIN, GPS: MAIN, INTEROP: PHOTO}  # where that tag stands

ASCII, SHORT, LONG, RATIONAL, UNDEFINED = 2, 3, 4, 5, 7
_SIZES = {1: 1, ASCII: 1, SHORT: 2, LONG: 4, RATIONAL: 8, 6: 1, UNDEFINED: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}
_SIZES_IN_BIGTIFF = {**_SIZES, 16: 8, 17: 8, 18: 8}

ORIENTATION, X_RESOLUTION, Y_RESOLUTION, RESOLUTION_UNIT = 0x0112, 0x011A, 0x011B, 0x0128
USER_COMMENT = 0x9286
_NO_UNIT, _INCH, _CENTIMETRE = 1, 2, 3
# What tells how a file's own samples lie, or what stands in places of its own: wrong, or twice, in any other file.
_LAYOUTS = (
    range(0x00FE, 0x010B), range(0x0111, 0x0112), range(0x0113, 0x011A), range(0x011C, 0x0128), range(0x0129, 0x012D),
    range(0x013D, 0x013E), range(0x0140, 0x0160), range(0x0200, 0x0215), (0x02BC, 0x83BB, 0x8649, 0x8773),
)  # fmt: skip
LAYOUT = frozenset(tag for tags in _LAYOUTS for tag in tags)
# Its sizes and places in it.
_OF_THE_OLD_PIXELS = {MAIN: LAYOUT | {ORIENTATION}, PHOTO: frozenset({0x9214, 0xA002, 0xA003, 0xA214})}
_ORDERS: dict[bytes, Literal["<", ">"]] = {b"II": "<", b"MM": ">"}
_MOST_BYTES = 64 << 20  # of all values; real ones are a thousand times smaller
_MOST_FIELDS = 4096  # of one directory; real ones have a hundred


@dataclass(frozen=True)
class Field:
    """A value as it is stored: its TIFF type and its bytes, in the block's byte order."""

    kind: int
    data: bytes


@dataclass(frozen=True)
class Exif:
    """The directories of a block, by the tag that points to each; `order` is that of `struct`."""

    order: Literal["<", ">"] = ">"
    directories: Mapping[int, Mapping[int, Field]] = field(default_factory=dict)

    def get(self, directory: int, tag: int) -> Field | None:
        return self.directories.get(directory, {}).get(tag)

    def set(self, directory: int, tag: int, value: Field) -> Exif:
        inside = {**self.directories.get(directory, {}), tag: value}
        return replace(self, directories={**self.directories, directory: inside})

    def number(self, directory: int, tag: int) -> float | None:
        """The first number of a SHORT, LONG or RATIONAL, None if there is none."""
        value = self.get(directory, tag)
        if value is None or len(value.data) < _SIZES.get(value.kind, 1):
            return None
        if value.kind == RATIONAL:
            over, under = struct.unpack(f"{self.order}II", value.data[:8])
            return over / under if under else None
        code = {SHORT: "H", LONG: "I"}.get(value.kind)
        return struct.unpack_from(self.order + code, value.data)[0] if code else None


def parse(file: BinaryIO, skip: Collection[int] = ()) -> tuple[Exif, bool]:
    """The directories of a block, laid out as a TIFF file is, or of such a file; and whether all could be read.

    `skip` are tags of the first directory that are not. No more bytes are taken than the file has, however its
    directories point into one another. Raises `ValueError` if it is no such block.
    """
    file.seek(0)
    head = file.read(16)
    order = _ORDERS.get(head[:2])
    if order is None or head[2:4] not in (b"*\0", b"\0*", b"+\0", b"\0+"):
        raise ValueError("no EXIF block")
    reader = _Reader(file, order, big=b"+" in head[2:4])
    directories = {MAIN: reader.directory(reader.place_in(head), skip)}
    for directory, parent in _INSIDE.items():
        pointer = directories.get(parent, {}).pop(directory, None)
        if pointer is not None and len(pointer.data) in (4, 8):
            directories[directory] = reader.directory(int.from_bytes(pointer.data, reader.endian))
    return Exif(order, directories), reader.whole


class _Reader:
    """Takes directories out of a file, altogether no more bytes than it has, nor more than real ones have."""

    def __init__(self, file: BinaryIO, order: Literal["<", ">"], big: bool) -> None:
        self.file, self.size, self.whole = file, file.seek(0, os.SEEK_END), True
        self.left = min(self.size, _MOST_BYTES)
        self.endian: Literal["little", "big"] = "little" if order == "<" else "big"
        self.count = struct.Struct(order + ("Q" if big else "H"))  # of entries
        self.entry = struct.Struct(order + ("HHQ" if big else "HHI"))  # tag, kind, number of values
        self.place = struct.Struct(order + ("Q" if big else "I"))  # of what does not fit the entry
        self.sizes = _SIZES_IN_BIGTIFF if big else _SIZES

    def place_in(self, head: bytes) -> int:
        """Where the first directory begins."""
        width = self.place.size
        return int.from_bytes(head[width : 2 * width], self.endian)

    def directory(self, place: int, skip: Collection[int] = ()) -> dict[int, Field]:
        found: dict[int, Field] = {}
        stride = self.entry.size + self.place.size
        start = self._read(place, self.count.size)
        if start is None:
            return found
        (count,) = self.count.unpack(start)
        there = min(count, max(self.size - place - self.count.size, 0) // stride, _MOST_FIELDS)
        self.whole &= count == there
        table = self._read(place + self.count.size, stride * there) or b""
        for entry in range(0, len(table), stride):
            tag, kind, number = self.entry.unpack_from(table, entry)
            size, inside = number * self.sizes.get(kind, 0), entry + self.entry.size
            if tag in skip or not number:
                continue
            if size <= self.place.size:
                value = table[inside : inside + size]
            else:
                (place,) = self.place.unpack_from(table, inside)
                value = self._read(place, size)
            if value:
                found.setdefault(tag, Field(kind, value))  # of a tag that is there twice the first counts
            else:
                self.whole = False
        return found

    def _read(self, place: int, size: int) -> bytes | None:
        if place + size > self.size or size > self.left:
            self.whole = False
            return None
        self.left -= size
        self.file.seek(place)
        return self.file.read(size)


def to_bytes(exif: Exif) -> bytes:
    """The block, from the TIFF header on."""
    head = (b"II*\0" if exif.order == "<" else b"MM\0*") + struct.pack(f"{exif.order}I", 8)
    return head + lay_out(exif, 8)


def lay_out(exif: Exif, start: int) -> bytes:
    """All directories, the first at byte `start` of the file to be, its sub-directories after it."""
    tables = {key: dict(table) for key, table in exif.directories.items() if table}
    for directory, parent in reversed(_INSIDE.items()):  # those inside first, so that their parents exist
        if directory in tables:
            tables.setdefault(parent, {})[directory] = Field(LONG, bytes(4))
    place, places = start, {}
    for key in sorted(tables):
        places[key] = place
        place += 6 + sum(12 + _apart(value) for value in tables[key].values())
    for directory, parent in _INSIDE.items():
        if directory in tables:
            tables[parent][directory] = Field(LONG, struct.pack(f"{exif.order}I", places[directory]))
    return b"".join(_packed(tables[key], places[key], exif.order) for key in sorted(tables))


def _packed(table: Mapping[int, Field], place: int, order: str) -> bytes:
    entries, apart = bytearray(struct.pack(f"{order}H", len(table))), bytearray()
    behind = place + 6 + 12 * len(table)
    for tag, value in sorted(table.items()):
        count = len(value.data) // _SIZES[value.kind]
        at = value.data.ljust(4, b"\0") if not _apart(value) else struct.pack(f"{order}I", behind + len(apart))
        entries += struct.pack(f"{order}HHI", tag, value.kind, count) + at
        if _apart(value):
            apart += value.data.ljust(_apart(value), b"\0")
    return bytes(entries + bytes(4) + apart)


def _apart(value: Field) -> int:
    """The bytes that a value takes beside its entry; an even number."""
    return 0 if len(value.data) <= 4 else len(value.data) + len(value.data) % 2


def without_what_is_stale(exif: Exif) -> tuple[Exif, int]:
    """Without orientation, sizes and thumbnail, which the pixels tell better; and the orientation (1..8)."""
    orientation = exif.number(MAIN, ORIENTATION)
    kept: dict[int, dict[int, Field]] = {}
    for key, table in exif.directories.items():
        stale = _OF_THE_OLD_PIXELS.get(key, frozenset())
        kept[key] = {tag: value for tag, value in table.items() if value.kind in _SIZES and tag not in stale}
    upright = int(orientation) if orientation and orientation in range(1, 9) else 1
    main = kept.get(MAIN, {})
    if upright >= 5 and X_RESOLUTION in main and Y_RESOLUTION in main:
        main[X_RESOLUTION], main[Y_RESOLUTION] = main[Y_RESOLUTION], main[X_RESOLUTION]
    return replace(exif, directories={key: table for key, table in kept.items() if table}), upright


def resolution(exif: Exif) -> tuple[float, float] | None:
    """Pixels an inch, across and down."""
    across, down = exif.number(MAIN, X_RESOLUTION), exif.number(MAIN, Y_RESOLUTION)
    unit = exif.number(MAIN, RESOLUTION_UNIT)
    if not across or not down or unit == _NO_UNIT:
        return None
    inch = 2.54 if unit == _CENTIMETRE else 1.0
    return across * inch, down * inch


def with_resolution(exif: Exif, across: float, down: float) -> Exif:
    """With `across` and `down` pixels an inch."""
    for tag, value in ((X_RESOLUTION, across), (Y_RESOLUTION, down)):
        exif = exif.set(MAIN, tag, Field(RATIONAL, struct.pack(f"{exif.order}II", *rational(value))))
    return exif.set(MAIN, RESOLUTION_UNIT, Field(SHORT, struct.pack(f"{exif.order}H", _INCH)))


def rational(value: float) -> tuple[int, int]:
    """As a fraction of two 32-bit numbers, to a ten-thousandth."""
    return (round(value), 1) if value == round(value) else (min(round(value * 10_000), 2**32 - 1), 10_000)
