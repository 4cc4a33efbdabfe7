"""Metadata made to hurt: it never costs the picture, nor more memory or time than its size warrants."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from functools import cache
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from confined import confined
from PIL import Image

from cudaspeed.images.animation import open_animation, upscale_animation
from cudaspeed.images.codecs.png_chunks import chunk
from cudaspeed.images.files import read_image, write_image

MB = 1 << 20
TARGETS = ("png", "jpg", "webp", "tif", "gif")
PIXELS = np.random.default_rng(2).integers(0, 6, (16, 24, 3)).astype(np.uint8) * 40


def encoded(format_name: str, **settings: object) -> bytes:
    buffer = BytesIO()
    Image.fromarray(PIXELS).save(buffer, format_name, **settings)
    return buffer.getvalue()


def a_png(*chunks: tuple[bytes, bytes], count: int = 1) -> bytes:
    data = encoded("PNG")
    return data[:33] + b"".join(chunk(*each) for each in chunks) * count + data[33:]


def a_jpeg(*segments: tuple[int, bytes], count: int = 1) -> bytes:
    data = encoded("JPEG", quality=100, subsampling=0)
    made = b"".join(struct.pack(">BBH", 0xFF, marker, len(payload) + 2) + payload for marker, payload in segments)
    return data[:20] + made * count + data[20:]


def a_webp(*chunks: tuple[bytes, bytes]) -> bytes:
    data = encoded("WEBP", lossless=True)
    body = struct.pack("<4sI", b"VP8X", 10) + bytes([0x2C, 0, 0, 0, 23, 0, 0, 15, 0, 0]) + data[12:]
    for name, payload in chunks:
        body += struct.pack("<4sI", name, len(payload)) + payload + bytes(len(payload) % 2)
    return struct.pack("<4sI4s", b"RIFF", len(body) + 4, b"WEBP") + body


def a_gif(*blocks: bytes) -> bytes:
    data = encoded("GIF")
    return data[:-1] + b"".join(blocks) + b";"


def a_bmp_with_profile(start: int, length: int) -> bytes:
    plain = encoded("BMP")
    header = bytearray(plain[14:54].ljust(124, b"\0"))
    header[:4] = struct.pack("<I", 124)
    header[56:60] = b"DEBM"
    header[112:120] = struct.pack("<II", start, length)
    return b"BM" + struct.pack("<IHHI", 14 + 124 + len(plain) - 54, 0, 0, 14 + 124) + bytes(header) + plain[54:]


@cache
def zeros(megabytes: int) -> bytes:
    return zlib.compress(bytes(megabytes * MB), 9)


def exif(*entries: tuple[int, int, int, int], tail: bytes = b"") -> bytes:
    """One directory at byte 8 of tag, type, count and value or place, then `tail`."""
    table = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + table + bytes(4) + tail


def xmp(inside: bytes, names: bytes = b' xmlns:t="http://ns.adobe.com/tiff/1.0/"') -> bytes:
    return b'<x:xmpmeta xmlns:x="adobe:ns:meta/"' + names + b">" + inside + b"</x:xmpmeta>"


def an_xmp_chunk(packet: bytes) -> tuple[bytes, bytes]:
    return b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(packet)


CIRCLES = {
    "into itself": exif((0x8769, 4, 1, 8)),
    "into one another": exif((0x8769, 4, 1, 8), (0x8825, 4, 1, 8), (0xA005, 4, 1, 8)),
    "all at one place": exif(*((0x9000 + n, 7, 60000, 8) for n in range(4000)), tail=bytes(60000)),
    "of megabytes": exif(*((n, 7, 5 * MB, 8) for n in range(30000)), tail=bytes(6 * MB)),
    "beyond the end": exif((0x010F, 2, 2**32 - 1, 2**32 - 1), (0x8769, 4, 1, 2**32 - 1)),
    "of unknown types": exif(*((n, n, 1, 1) for n in range(300))),
    "without entries": exif(),
    "cut short": exif((0x010F, 2, 4, 0))[:15],
    "more entries than bytes": b"MM\0*\0\0\0\x08\xff\xff",
    "no pointer": exif((0x8769, 2, 4, 8), (0x8825, 5, 1, 8)),
    "an orientation without a number": exif((0x0112, 5, 1, 26), (0x011A, 5, 1, 26), tail=bytes(8)),
    "thousands of fields": exif(*((n, 7, 1000, 8 + 12 * 40000 + 1000 * n) for n in range(20_000)), tail=bytes(22 * MB)),
    "a resolution of billions": exif(
        (0x011A, 5, 1, 50), (0x011B, 5, 1, 50), (0x0128, 3, 1, 3), tail=struct.pack("<II", 2**32 - 1, 1)
    ),
    "an orientation of text": exif((0x0112, 2, 1, 6)),
}

ATTACKS: dict[str, Callable[[], bytes]] = {
    **{f"png: EXIF {name}": (lambda block=block: a_png((b"eXIf", block))) for name, block in CIRCLES.items()},
    **{f"webp: EXIF {name}": (lambda block=block: a_webp((b"EXIF", block))) for name, block in CIRCLES.items()},
    **{
        f"jpeg: EXIF {name}": (lambda block=block: a_jpeg((0xE1, b"Exif\0\0" + block[:65000])))
        for name, block in CIRCLES.items()
    },
    "png: texts of 25 GB": lambda: a_png((b"zTXt", b"parameters\0\0" + zeros(256)), count=100),
    "png: XMP of 25 GB": lambda: a_png((b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zeros(256)), count=100),
    "png: hexadecimal EXIF of 25 GB": lambda: a_png((b"zTXt", b"Raw profile type exif\0\0" + zeros(256)), count=100),
    "png: profiles of 25 GB": lambda: a_png((b"iCCP", b"a\0\0" + zeros(256)), count=100),
    "png: 200000 texts": lambda: a_png((b"tEXt", b"parameters\0a"), count=200_000),
    "png: a million chunks": lambda: a_png((b"prVt", b""), count=1_000_000),
    "png: a text of 30 MB": lambda: a_png((b"tEXt", b"workflow\0" + bytes(30 * MB))),
    "png: no UTF-8": lambda: a_png((b"iTXt", b"workflow\0\0\0\0\0\xff\xfe\x80"), (b"iTXt", b"\xff\0\0\0\0\0a")),
    "png: texts that end early": lambda: a_png(
        (b"tEXt", b""), (b"zTXt", b""), (b"iTXt", b""), (b"iTXt", b"a\0"), (b"iTXt", b"a\0\1\0"), (b"zTXt", b"a\0\0x")
    ),
    "png: a keyword without end": lambda: a_png((b"tEXt", b"a" * 100_000)),
    "png: hexadecimal EXIF that is none": lambda: a_png(
        (b"tEXt", b"Raw profile type exif\0\nexif\n 4\nxyz"), (b"tEXt", b"Raw profile type APP1\0"),
        (b"tEXt", "Raw profile type xmp\0\nxmp\n4\nÄÄ".encode("latin-1")),
    ),
    "png: colours of no length": lambda: a_png(
        *((name, b"") for name in (b"cICP", b"gAMA", b"cHRM", b"pHYs", b"iCCP", b"sRGB"))
    ),
    "png: XMP of openings": lambda: a_png(an_xmp_chunk(xmp(b"<t:Orientation>" * 1_000_000))),
    "png: XMP of attributes": lambda: a_png(an_xmp_chunk(xmp(b"<a" + b' t:Orientation="1"' * 1_000_000 + b"/>"))),
    "png: XMP of spaces": lambda: a_png(an_xmp_chunk(xmp(b"<a t:Orientation" + b" " * (20 * MB)))),
    "png: XMP of prefixes": lambda: a_png(
        an_xmp_chunk(xmp(b"", b"".join(b' xmlns:a%d="http://ns.adobe.com/tiff/1.0/"' % n for n in range(200_000))))
    ),
    "png: XMP with a zero": lambda: a_png(an_xmp_chunk(xmp(b"a\0,b"))),
    "png: XMP that is no UTF-8": lambda: a_png(an_xmp_chunk(xmp(b"\xff\xfe\x80"))),
    "jpeg: 60000 comments": lambda: a_jpeg((0xFE, b"a comment"), count=60_000),
    "jpeg: EXIF in 800 parts": lambda: a_jpeg((0xE1, b"Exif\0\0" + CIRCLES["of megabytes"][:65000]), count=800),
    "jpeg: a profile in wrong parts": lambda: a_jpeg((0xE2, b"ICC_PROFILE\0"), (0xE2, b"ICC_PROFILE\0\xff\0a")),
    "jpeg: a profile of 200 parts": lambda: a_jpeg(
        *((0xE2, b"ICC_PROFILE\0" + bytes([n, 200]) + bytes(60_000)) for n in range(200))
    ),
    "jpeg: densities of nothing": lambda: encoded("JPEG").replace(
        b"JFIF\0\x01\x01\0\0\x01\0\x01", b"JFIF\0\x01\x01\1" + bytes(4)
    ),
    "webp: 60000 chunks": lambda: a_webp(*((b"XMP ", b"<a/>") for _ in range(60_000))),
    "webp: XMP of 30 MB": lambda: a_webp((b"XMP ", xmp(b"<t:Orientation>" * 2_000_000))),
    "gif: 5 MB in blocks of one byte": lambda: a_gif(b"!\xfe" + b"\1a" * 5_000_000 + b"\0"),
    "gif: 100000 comments": lambda: a_gif(b"!\xfe\1a\0" * 100_000),
    "gif: a profile of 20 MB": lambda: a_gif(b"!\xff\x0bICCRGBG1012" + (b"\xff" + bytes(255)) * 80_000 + b"\0"),
    "gif: XMP without its end": lambda: a_gif(b"!\xff\x0bXMP DataXMP<a/>\0"),
    "bmp: a profile beyond the end": lambda: a_bmp_with_profile(2**32 - 1, 2**32 - 1),
}  # fmt: skip


def carried_everywhere(folder: Path) -> tuple[list[int], list[str], bool]:
    """Read the picture and write it in every format; pixels, warnings, and whether the next picture was done, too."""
    picture = read_image(folder / "in")
    warnings = list(picture.warnings)
    for ending in TARGETS:
        warnings += write_image(folder / f"out.{ending}", picture)
        assert read_image(folder / f"out.{ending}").pixels.shape == picture.pixels.shape
    (folder / "next").write_bytes(encoded("PNG"))
    write_image(folder / "next.png", read_image(folder / "next"))
    return np.rint(picture.pixels * 255).astype(int).tolist(), warnings, (folder / "next.png").exists()


@pytest.mark.parametrize("name", ATTACKS)
def test_metadata_never_cost_the_picture(tmp_path: Path, name: str) -> None:
    (tmp_path / "in").write_bytes(ATTACKS[name]())
    outcome = confined(carried_everywhere, tmp_path, memory=512 * MB, seconds=60)
    assert outcome.error is None
    pixels, warnings, next_too = outcome.result
    assert next_too
    if not name.startswith("jpeg"):
        assert pixels == PIXELS.tolist()
    assert all(warning.isprintable() for warning in warnings)
    assert sum(map(len, warnings)) < 10_000
    assert outcome.peak < 256 * MB
    assert outcome.seconds < 25


def test_a_warning_holds_nothing_that_a_terminal_obeys(tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(
        a_png((b"tEXt", b"\x1b]0;owned\x07\x1b[2J\0a"), (b"tEXt", b"a\nb\0a"), (b"zTXt", b"\x9b31m\0\0broken"))
    )
    picture = read_image(tmp_path / "in")
    for ending in TARGETS:
        lost = write_image(tmp_path / f"out.{ending}", picture)
        assert all(warning.isprintable() for warning in lost)
        assert lost or ending == "png"


def test_what_is_too_large_to_be_looked_into_goes_from_png_to_png_as_it_is(tmp_path: Path) -> None:
    bomb = (b"zTXt", b"parameters\0\0" + zeros(256))
    (tmp_path / "in").write_bytes(a_png(bomb))
    picture = read_image(tmp_path / "in")
    assert write_image(tmp_path / "out.png", picture) == ()
    assert chunk(*bomb) in (tmp_path / "out.png").read_bytes()
    (warning,) = write_image(tmp_path / "out.jpg", picture)
    assert "parameters" in warning


def animated_gif(width: int, height: int, frames: int) -> bytes:
    """A large screen on which each frame is one pixel."""
    frame = b"!\xf9\x04\0\1\0\0\0,\0\0\0\0\1\0\1\0\0\2\2D\1\0"
    palette = bytes([0, 0, 0, 255, 255, 255])
    return b"GIF89a" + struct.pack("<HHBBB", width, height, 0x80, 0, 0) + palette + frame * frames + b";"


def animate(path: Path, target: Path) -> int:
    animation = open_animation(path)
    if animation is None:
        read_image(path)  # which says why
        return 0
    upscale_animation(animation, target, lambda frames: frames)
    return len(animation)


@pytest.mark.parametrize(
    ("width", "height", "frames"), [(10_000, 10_000, 50_000), (20_000, 20_000, 2), (2000, 2000, 10**6)]
)
def test_small_animations_of_many_pixels_are_refused(tmp_path: Path, width: int, height: int, frames: int) -> None:
    (tmp_path / "in.gif").write_bytes(animated_gif(width, height, frames))
    outcome = confined(animate, tmp_path / "in.gif", tmp_path / "out.gif", memory=512 * MB, seconds=60)
    assert outcome.error is not None
    assert f"{width}x{height}" in outcome.error
    assert outcome.peak < 256 * MB
    assert outcome.seconds < 30


def test_an_animation_takes_the_memory_of_a_few_frames(tmp_path: Path) -> None:
    side, count = 500, 120  # as float32 RGB: 360 MB
    (tmp_path / "in.gif").write_bytes(animated_gif(side, side, count))
    for ending in ("gif", "png", "webp"):
        outcome = confined(animate, tmp_path / "in.gif", tmp_path / f"out.{ending}", memory=512 * MB, seconds=60)
        assert (outcome.error, outcome.result) == (None, count)
        assert outcome.peak < 80 * MB
