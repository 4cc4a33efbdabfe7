"""The chunks of a PNG: what is there is found, what is not is said to be missing."""

import struct
import zlib

import imagecodecs
import numpy as np
import pytest

from cudaspeed.api.errors import BadImageError
from cudaspeed.images.codecs import png_chunks as png

PNG = bytes(imagecodecs.png_encode(np.zeros((3, 4, 3), np.uint8)))


def test_chunks_come_in_order_with_their_bytes_and_what_follows_the_end_is_left_alone() -> None:
    text = png.chunk(b"tEXt", b"parameters\0a cat")
    found = list(png.chunks(PNG[:33] + text + PNG[33:] + b"more"))
    assert [chunk.name for chunk in found] == [b"IHDR", b"tEXt", b"IDAT", b"IEND"]
    assert bytes(found[1].payload) == b"parameters\0a cat"
    assert all(chunk.sound for chunk in found)


def test_a_wrong_checksum_is_seen() -> None:
    text = png.chunk(b"tEXt", b"parameters\0a cat")[:-1] + b"\0"
    assert [chunk.sound for chunk in png.chunks(PNG[:33] + text + PNG[33:])] == [True, False, True, True]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (PNG[:-1], "cut short"),
        (PNG[:33], "cut short"),
        (PNG[:33] + struct.pack(">I", 2**32 - 1) + b"tEXt" + PNG[33:], "cut short"),
        (PNG[:33] + bytes(100), "damaged"),
        (PNG[:33] + png.chunk(b"teXt", b"") * (2**20 + 1), "more than 1048576 chunks"),
    ],
    ids=["no end mark", "no picture", "long chunk", "zeros", "many chunks"],
)
def test_what_ends_early_or_has_no_end_is_refused(data: bytes, reason: str) -> None:
    with pytest.raises(BadImageError, match=reason):
        list(png.chunks(data))


def test_a_chunk_is_made_as_the_format_has_it() -> None:
    assert png.chunk(b"IEND", b"") == PNG[-12:]
    assert png.chunk(b"tEXt", memoryview(b"a\0b")) == b"\0\0\0\x03tEXta\0b" + struct.pack(">I", zlib.crc32(b"tEXta\0b"))
