"""The first directory of a TIFF: its tags, read by us within bounds, so that what is checked is what is decoded.

Source: TIFF 6.0 (Adobe, 1992); BigTIFF (AWare Systems, 2007).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np

from ...api.errors import BadImageError
from .source import size_of

WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC, FILL_ORDER = 256, 257, 258, 259, 262, 266
STRIP_OFFSETS, ORIENTATION, SAMPLES, ROWS_PER_STRIP, STRIP_BYTES, PLANAR = 273, 274, 277, 278, 279, 284
T4_OPTIONS, PREDICTOR, COLOUR_MAP = 292, 317, 320
TILE_WIDTH, TILE_HEIGHT, TILE_OFFSETS, TILE_BYTES, EXTRA_SAMPLES, SAMPLE_FORMAT = 322, 323, 324, 325, 338, 339
JPEG_TABLES, PROFILE, DEPTH = 347, 34675, 32997
_USED = frozenset(value for name, value in list(globals().items()) if name.isupper() and isinstance(value, int))
_TYPES = {1: "u1", 3: "u2", 4: "u4", 7: "u1", 13: "u4", 16: "u8", 18: "u8"}  # those that the tags above may have
_MOST_TAGS = 4096
_MOST_VALUE_BYTES = 64 << 20  # of one tag: places of all strips, a profile
_MOST_PAGES = 1 << 14
_VERSIONS, _BIG_VERSION = (42, 0x2A00), 43  # also with its bytes the wrong way round, as some programs write it
_CUT_SHORT = "the picture is cut short; copy or export it again"


@dataclass(frozen=True)
class Directory:
    """`order` is "<" or ">". `tags` are those that are used, as unsigned integers. `pages` counts all directories."""

    order: str
    tags: dict[int, np.ndarray]
    pages: int

    def value(self, tag: int, default: int) -> int:
        """The first value of `tag`."""
        found = self.tags.get(tag)
        return int(found[0]) if found is not None and len(found) else default

    def values(self, tag: int) -> tuple[int, ...]:
        """Of a tag that has a value for each sample of a pixel."""
        return tuple(self.tags[tag][: self.samples].tolist()) if tag in self.tags else ()

    @property
    def samples(self) -> int:
        """Of a pixel; where that is not said, as many as it has depths."""
        return self.value(SAMPLES, len(self.tags.get(BITS, (1,))))


def read_directory(file: BinaryIO) -> Directory:
    """Raises `BadImageError` where something lies outside of the file, is there twice, or is too much."""
    file.seek(0)
    head = file.read(16)
    order = "<" if head[:2] == b"II" else ">"
    (version,) = struct.unpack_from(order + "H", head, 2)
    if version != _BIG_VERSION and version not in _VERSIONS:
        raise BadImageError(f"is a TIFF of version {version}; 42 and 43 are read")
    big = version == _BIG_VERSION
    layout = _Layout(file, size_of(file), order, big)
    (start,) = struct.unpack_from(order + "Q", head, 8) if big else struct.unpack_from(order + "I", head, 4)
    tags, following = layout.tags(start)
    return Directory(order, tags, 1 + layout.count_pages(following, {start}))


@dataclass(frozen=True)
class _Layout:
    file: BinaryIO
    size: int
    order: str
    big: bool

    def tags(self, start: int) -> tuple[dict[int, np.ndarray], int]:
        """The tags of the directory at `start`, and where the next directory begins, or 0."""
        entry, inline = ("HHQ", 8) if self.big else ("HHI", 4)
        count = self._count(start)
        if count > _MOST_TAGS:
            raise BadImageError(f"the TIFF has {count} tags, more than the {_MOST_TAGS} that are read; export it again")
        length = struct.calcsize("=" + entry) + inline
        table = self._bytes(start + self._count_bytes, count * length + inline)
        tags: dict[int, np.ndarray] = {}
        for place in range(0, count * length, length):
            tag, kind, number = struct.unpack_from(self.order + entry, table, place)
            if tag not in _USED:
                continue
            if tag in tags:
                raise BadImageError(f"the TIFF is damaged: it has the tag {tag} twice; export it again")
            if kind not in _TYPES:
                raise BadImageError(f"the TIFF is damaged: its tag {tag} is of type {kind}; export it again")
            kept = table[place + length - inline : place + length]
            tags[tag] = self._values(tag, _TYPES[kind], number, kept)
        return tags, self._place(table, count * length)

    def _values(self, tag: int, kind: str, number: int, inline: bytes) -> np.ndarray:
        length = number * int(kind[1])
        if length > _MOST_VALUE_BYTES:
            raise BadImageError(
                f"tag {tag} of the TIFF has {length / 1e6:.1f} MB, more than the {_MOST_VALUE_BYTES / 1e6:.1f} MB that "
                "are read; export it again"
            )
        data = inline[:length] if length <= len(inline) else self._bytes(self._place(inline, 0), length)
        return np.frombuffer(data, self.order + kind)

    def count_pages(self, start: int, seen: set[int]) -> int:
        """How many directories follow, up to a bound; a chain that bites its tail ends there."""
        number = 0
        entry, last = (20, 8) if self.big else (12, 4)
        while start and start not in seen and number < _MOST_PAGES:
            seen.add(start)
            try:
                start = self._place(self._bytes(start + self._count_bytes + entry * self._count(start), last), 0)
            except BadImageError:  # the first picture is there all the same
                return number
            number += 1
        return number

    @property
    def _count_bytes(self) -> int:
        return 8 if self.big else 2

    def _count(self, start: int) -> int:
        (count,) = struct.unpack(self.order + ("Q" if self.big else "H"), self._bytes(start, self._count_bytes))
        return count

    def _place(self, data: bytes, offset: int) -> int:
        (place,) = struct.unpack_from(self.order + ("Q" if self.big else "I"), data, offset)
        return place

    def _bytes(self, start: int, length: int) -> bytes:
        if start + length > self.size:
            raise BadImageError(_CUT_SHORT)
        self.file.seek(start)
        data = self.file.read(length)
        if len(data) < length:
            raise BadImageError(_CUT_SHORT)
        return data
