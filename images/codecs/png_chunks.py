"""The chunks of a PNG: read, made, and those of a picture alone by libpng.

Source: Portable Network Graphics, third edition (W3C, 2025).
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...api.errors import BadImageError

SIGNATURE = b"\x89PNG\r\n\x1a\n"
HEADER_END = 33  # signature, then the IHDR chunk: length, name, 13 bytes, checksum
_AROUND = 12  # bytes of a chunk beside its payload: length, name, checksum
_MOST_CHUNKS = 1 << 20  # seconds; libpng writes eight kilobytes into one
# zlib's own 6 takes 3.5 times as long for an enlarged photograph, and 2.7 times in 16 bits, for a file 6 % smaller;
# ComfyUI's nodes write with 4, too.
_LEVEL = 4
_CUT_SHORT = "the picture is cut short; copy or export it again"


class Chunk(NamedTuple):
    """One chunk as it lies in the file; `payload` is a view of the file's bytes, not a copy."""

    name: bytes
    payload: memoryview
    checksum: int

    @property
    def sound(self) -> bool:
        """Whether the checksum fits; reads the whole payload."""
        return zlib.crc32(self.payload, zlib.crc32(self.name)) == self.checksum


def chunks(data: bytes) -> Iterator[Chunk]:
    """The chunks of a PNG in their order, to the last one, `IEND`. What comes after it is left alone.

    Raises `BadImageError` where a chunk reaches beyond the end of the file, has no name of four letters, or is one too
    many (2**20). Checksums are not looked at: `Chunk.sound` does so.
    """
    view, place = memoryview(data), len(SIGNATURE)
    for _ in range(_MOST_CHUNKS):
        if place + _AROUND > len(view):
            raise BadImageError(_CUT_SHORT)
        length, name = struct.unpack_from(">I4s", view, place)
        end = place + 8 + length
        if not name.isalpha():
            raise BadImageError(
                f"the PNG is damaged: a chunk is named {name!r} at byte {place}; copy or export it again"
            )
        if end + 4 > len(view):
            raise BadImageError(_CUT_SHORT)
        yield Chunk(name, view[place + 8 : end], int.from_bytes(view[end : end + 4], "big"))
        if name == b"IEND":
            return
        place = end + 4
    raise BadImageError(f"the PNG has more than {_MOST_CHUNKS} chunks, the limit; export it again")


def chunk(name: bytes, payload: bytes | memoryview) -> bytes:
    """The bytes of one chunk, with length and checksum."""
    return struct.pack(">I", len(payload)) + name + payload + struct.pack(">I", zlib.crc32(payload, zlib.crc32(name)))


def encode_samples(samples: NDArray[np.uint8] | NDArray[np.uint16]) -> bytes:
    """[H, W] or [H, W, C] as a file without anything beside the pixels."""
    import imagecodecs  # here because ComfyUI, which hands us tensors, need not have it

    return bytes(imagecodecs.png_encode(samples, level=_LEVEL))
