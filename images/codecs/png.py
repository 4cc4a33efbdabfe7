"""PNG: what Pillow lacks of it, which is 16 bits a sample and telling whether a file is whole."""

from __future__ import annotations

import struct
import zlib

import numpy as np
from numpy.typing import NDArray

from ...api.errors import BadImageError
from .picture import Picture, check_size, levels

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_TAIL = 1 << 16  # bytes; some programs append a little after the end
_HEADER_END = 33  # signature, then the IHDR chunk: length, name, 13 bytes, checksum
_BITS = 24  # where the header tells the bits a sample


def check_is_whole(data: bytes) -> None:
    """Pillow takes a file without an end for whole, and one without pixels for none of its formats."""
    if len(data) >= _HEADER_END:
        check_size(*struct.unpack(">II", data[16:24]))
    if b"IEND" not in data[-_TAIL:]:
        raise BadImageError("the picture is cut short; copy or export it again")


def bits_of(data: bytes) -> int:
    """Bits a sample, as the header tells them."""
    return data[_BITS]


def samples_of_16_bits(data: bytes) -> NDArray[np.uint16]:
    import imagecodecs  # here because ComfyUI, which hands us tensors, need not have it

    return imagecodecs.png_decode(data)


def encode_16_bits(picture: Picture) -> bytes:
    import imagecodecs

    data = bytes(imagecodecs.png_encode(levels(picture.pixels, 16)))
    chunks = b""
    if picture.icc:
        chunks += _chunk(b"iCCP", b"ICC Profile\0\0" + zlib.compress(picture.icc))
    if picture.exif:
        chunks += _chunk(b"eXIf", picture.exif.removeprefix(b"Exif\0\0"))
    return data[:_HEADER_END] + chunks + data[_HEADER_END:]


def _chunk(name: bytes, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload)) + name + payload + struct.pack(">I", zlib.crc32(name + payload))
