"""Picture files made to hurt: small ones that ask for all the memory or all the time, and files that are none."""

from __future__ import annotations

import lzma
import os
import re
import socket
import struct
import zlib
from collections.abc import Callable
from functools import cache
from io import BytesIO
from pathlib import Path

import imagecodecs
import numpy as np
import OpenEXR
import picture_bytes as made
import pytest
from confined import Outcome, confined
from PIL import Image

from cudaspeed.images.files import read_image
from cudaspeed.images.limits import DecodeLimits

MB = 1 << 20
GREY = {256: ("I", [40]), 257: ("I", [24]), 258: ("H", [8]), 259: ("H", [1]), 262: ("H", [1]), 277: ("H", [1])}
LARGE_DICTIONARY = [
    {"id": lzma.FILTER_LZMA2, "dict_size": 300 * MB, "mode": lzma.MODE_FAST, "mf": lzma.MF_HC3, "nice_len": 8}
]
SMALL_PNG = b"".join(b"\0" + bytes(40) for _ in range(24))


def sides(path: Path, limits: DecodeLimits) -> tuple[tuple[int, ...], tuple[str, ...]]:
    picture = read_image(path, limits)
    return picture.pixels.shape, picture.warnings


def attack(path: Path, memory: int = 256 * MB, seconds: float = 30, megapixels: float = 179) -> Outcome:
    outcome = confined(sides, path, DecodeLimits(megapixels), memory=memory, seconds=seconds)
    assert outcome.error is None or outcome.error.startswith(f"BadImageError: {path}: ")
    return outcome


def tiff(changes: dict[int, tuple[str, list[int] | bytes]], pieces: list[bytes], **how: object) -> bytes:
    return made.tiff({**GREY, **changes}, pieces, **how)  # type: ignore[arg-type]


def jpeg(**options: object) -> bytes:
    buffer = BytesIO()
    ramp = np.linspace(0, 255, 24 * 16 * 3).reshape(16, 24, 3).astype(np.uint8)
    Image.fromarray(ramp).save(buffer, "JPEG", **options)
    return buffer.getvalue()


def jpeg_of(width: int, height: int, **options: object) -> bytes:
    """The data of 24x16 pixels, with a header that claims others."""
    data = jpeg(**options)
    place = max(data.find(b"\xff\xc0"), data.find(b"\xff\xc2"))
    return data[: place + 5] + struct.pack(">HH", height, width) + data[place + 9 :]


def many_scans(count: int, side: int = 8192) -> bytes:
    """A progressive JPEG that goes over all of its blocks in each scan, in a few bytes: runs of blocks without end."""
    table = bytes([0x10]) + bytes([1] + [0] * 15) + b"\xe0"  # one code: a run of 2**14 blocks and more
    dc_table = bytes([0x00]) + bytes([1] + [0] * 15) + b"\x00"
    head = b"\xff\xd8" + made.jpeg_segment(0xDB, bytes([0]) + bytes([1] * 64))
    head += made.jpeg_segment(0xC2, struct.pack(">BHHBBBB", 8, side, side, 1, 1, 0x11, 0))
    head += made.jpeg_segment(0xC4, table) + made.jpeg_segment(0xC4, dc_table)
    blocks = (side // 8) ** 2
    scan = made.jpeg_segment(0xDA, bytes([1, 1, 0, 0, 0, 0])) + bytes(blocks // 8 + 1)
    again = made.jpeg_segment(0xDA, bytes([1, 1, 0, 1, 63, 0])) + bytes(2 * (blocks // (1 << 14) + 1))
    return head + scan + again * count + b"\xff\xd9"


def exif_bomb(entries: int, length: int) -> bytes:
    """A block whose many values all lie at one place, each as long as the block."""
    table = b"".join(struct.pack("<HHII", 0x9000 + index, 7, length, 8) for index in range(entries))
    return (b"II*\0" + struct.pack("<IH", 8, entries) + table + bytes(4)).ljust(length, b"\0")


@cache
def zeros(megabytes: int, compress: Callable[[], object] = zlib.compressobj) -> bytes:
    inflater = compress()
    return b"".join([*(inflater.compress(bytes(MB)) for _ in range(megabytes)), inflater.flush()])  # type: ignore


def quick_lzma() -> lzma.LZMACompressor:
    return lzma.LZMACompressor(preset=0)


def in_a_tile(compression: int, data: bytes, **more: object) -> bytes:
    tile = {322: ("H", [64]), 323: ("H", [64]), 259: ("H", [compression])}
    return tiff(tile, [data], **more)


def chunks_of_profiles(count: int) -> bytes:
    bomb = made.png_chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(65 * MB), 1))
    return made.png((40, 24), SMALL_PNG, beside=bomb * count)


def plain_exr() -> bytes:
    buffer = BytesIO()
    header = {"compression": OpenEXR.ZIP_COMPRESSION, "type": OpenEXR.scanlineimage}
    OpenEXR.File(header, {"Y": np.ones((4, 5), np.float32)}).write(buffer)
    return buffer.getvalue()


def exr_of(width: int, height: int) -> bytes:
    window = struct.pack("<4i", 0, 0, 4, 3)
    return plain_exr().replace(window, struct.pack("<4i", 0, 0, width - 1, height - 1))


REFUSED: dict[str, tuple[Callable[[], bytes], str]] = {
    "png: huge": (lambda: made.png((60000, 60000), SMALL_PNG), r"60000x60000.*--max-megapixels 3600"),
    "png: long": (lambda: made.png((2**31 - 1, 1), SMALL_PNG), r"2147483647x1 .*--max-megapixels"),
    "png: fewer rows": (lambda: made.png((13000, 13000), SMALL_PNG), r"cut short: 13000x13000 pixels cannot be told"),
    "png: many chunks": (
        lambda: made.png((40, 24), SMALL_PNG, beside=made.png_chunk(b"teXt", b"") * 2**20),
        r"1048576",
    ),
    "jpeg: huge": (lambda: jpeg_of(65500, 65500), r"65500x65500.*--max-megapixels 4291"),
    "jpeg: little data": (lambda: jpeg_of(13000, 13000), r"cut short: 13000x13000 pixels cannot be told in \d+ bytes"),
    "jpeg: little data, progressive": (lambda: jpeg_of(13000, 13000, progressive=True), r"cannot be told in"),
    "jpeg: many scans": (lambda: many_scans(5000), r"more than 128 scans"),
    "jpeg: many segments": (lambda: b"\xff\xd8" + made.jpeg_segment(0xFE, b"") * 2**17, r"more than 65536 segments"),
    "jpeg: two frames": (
        lambda: jpeg()[:2] + made.jpeg_segment(0xC0, b"\x08\0\x10\0\x10\x01\x01\x11\0") + jpeg()[2:],
        r"two frame headers",
    ),
    "webp: huge": (
        lambda: made.webp(made.webp_canvas(16384, 16384) + made.webp_part(b"VP8L", b"/" + bytes(20))),
        r"16384x16384.*--max-megapixels 269",
    ),
    "webp: frame beyond the canvas": (
        lambda: made.webp(made.webp_canvas(40, 24) + made.webp_part(b"VP8L", b"/" + bytes([255, 255, 255, 15, 9]))),
        r"16384x16384|cut short",
    ),
    "gif: huge": (lambda: made.gif((65535, 65535), [made.gif_frame((0, 0, 9, 9), b"\x04\x05")]), r"65535x65535"),
    "gif: frame beyond the screen": (
        lambda: made.gif((9, 9), [made.gif_frame((9, 9, 60000, 60000), b"\x04\x05")]),
        r"60000x60000",
    ),
    "gif: second frame beyond the screen": (
        lambda: made.gif(
            (9, 9), [made.gif_frame((0, 0, 60000, 1), b"\x44\1"), made.gif_frame((60000, 60000, 5, 5), b"\x44\1")]
        ),
        r"60005x60005",
    ),
    "bmp: huge": (lambda: made.bmp((60000, 60000), 24, 0, bytes(99)), r"60000x60000"),
    "bmp: huge from above": (lambda: made.bmp((60000, -60000), 24, 0, bytes(99)), r"60000x60000"),
    "bmp: negative": (lambda: made.bmp((-60000, 60000), 24, 0, bytes(99)), r"no pixels"),
    "bmp: little data": (lambda: made.bmp((13000, 13000), 24, 0, bytes(99)), r"cut short"),
    "tiff: 150 samples": (
        lambda: tiff(
            {256: ("H", [4000]), 257: ("H", [4000]), 258: ("H", [8] * 150), 277: ("H", [150]), 259: ("H", [8])},
            [zlib.compress(bytes(10**6))],
        ),
        r"150 samples a pixel; 1 to 32",
    ),
    "tiff: 1000 samples": (
        lambda: tiff({256: ("H", [12000]), 257: ("H", [12000]), 277: ("H", [1000])}, [bytes(99)]),
        r"1000 samples",
    ),
    "tiff: 32 samples in one strip": (
        lambda: tiff({256: ("H", [13000]), 257: ("H", [13000]), 277: ("H", [32]), 258: ("H", [16])}, [bytes(99)]),
        r"one strip of 13000x13000 pixels with 32 samples has 10816.0 MB|--max-megapixels",
    ),
    "tiff: no samples": (lambda: tiff({277: ("H", [0])}, [bytes(960)]), r"0 samples"),
    "tiff: one huge tile": (
        lambda: tiff({322: ("I", [60000]), 323: ("I", [60000]), 259: ("H", [8])}, [zlib.compress(bytes(10**6))]),
        r"one tile of 60000x60000 pixels with 1 samples has 3600.0 MB",
    ),
    "tiff: a million tiles": (
        lambda: tiff({256: ("I", [1100]), 257: ("I", [1000]), 322: ("I", [1]), 323: ("I", [1])}, [bytes(99)]),
        r"1100000 pieces, more than the 262144",
    ),
    "tiff: huge": (lambda: tiff({256: ("I", [2**32 - 1]), 257: ("I", [2**32 - 1])}, [bytes(99)]), r"4294967295x"),
    "tiff: huge tag": (
        lambda: b"II*\0\x08\0\0\0" + struct.pack("<HHHII", 1, 273, 4, 2**30, 8),
        r"tag 273 of the TIFF has 4295.0 MB|cut short",
    ),
    "tiff: many tags": (
        lambda: made.tiff({**GREY, 273: ("Q", [0])}, [b"\0"], big=True)[:16] + struct.pack("<Q", 2**40),
        r"tags",
    ),
    "tiff: a tag twice": (lambda: tiff({}, [bytes(960)]).replace(b"\x01\x01\x04\0", b"\0\x01\x04\0"), r"256 twice"),
    "tiff: larger JPEG inside": (lambda: in_a_tile(7, jpeg_of(60000, 60000)), r"64x64 .* picture of 60000x60000"),
    "tiff: JPEG of little data inside": (
        lambda: tiff({256: ("I", [13000]), 257: ("I", [13000]), 259: ("H", [7])}, [jpeg_of(13000, 13000)]),
        r"cut short",
    ),
    "tiff: larger WebP inside": (
        lambda: in_a_tile(50001, made.webp(made.webp_part(b"VP8L", b"/" + bytes([255, 255, 255, 15]) + bytes(9)))),
        r"picture of 16384x16384",
    ),
    "tiff: deflate ends early": (lambda: in_a_tile(8, zlib.compress(bytes(99))), r"cut short"),
    "tiff: old JPEG in a huge tile": (
        lambda: tiff({322: ("I", [60000]), 323: ("I", [60000]), 259: ("H", [6])}, [bytes(99)]),
        r"one tile of 60000",
    ),
    "tiff: lzma's dictionary": (
        lambda: in_a_tile(34925, lzma.compress(bytes(4096), filters=LARGE_DICTIONARY)),
        r"damaged or cut short",
    ),
    "exr: huge": (lambda: exr_of(60000, 60000), r"60000x60000|damaged"),
    "exr: little data": (lambda: exr_of(13000, 13000), r"damaged or cut short"),
}

READ: dict[str, tuple[Callable[[], bytes], str]] = {
    "png: profile of 256 MB": (
        lambda: made.png((40, 24), SMALL_PNG, beside=made.png_chunk(b"iCCP", b"a\0\0" + zeros(256))),
        "colour profile",
    ),
    "png: text of 256 MB": (
        lambda: made.png((40, 24), SMALL_PNG, beside=made.png_chunk(b"zTXt", b"a\0\0" + zeros(256))),
        "",
    ),
    "png: XMP of 256 MB": (
        lambda: made.png(
            (40, 24), SMALL_PNG, beside=made.png_chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zeros(256))
        ),
        "XMP|EXIF",
    ),
    "png: many profiles": (lambda: chunks_of_profiles(200), "colour profile"),
    "png: more rows": (lambda: made.png((40, 24), bytes(10**8)), ""),
    "png: EXIF that overlaps": (
        lambda: made.png((40, 24), SMALL_PNG, beside=made.png_chunk(b"eXIf", exif_bomb(20000, 3 << 20))),
        "EXIF",
    ),
    "jpeg: EXIF that overlaps": (
        lambda: jpeg()[:2] + made.jpeg_segment(0xE1, b"Exif\0\0" + exif_bomb(5000, 65000)) + jpeg()[2:],
        "EXIF",
    ),
    "tiff: a chain that bites its tail": (lambda: tiff({}, [bytes(960)], following=8), ""),
    "tiff: a chain into the file": (lambda: tiff({}, [bytes(960)], following=50), ""),
    "tiff: deflate of 256 MB": (lambda: in_a_tile(8, zeros(256)), ""),
    "tiff: lzma of 256 MB": (lambda: in_a_tile(34925, zeros(256, quick_lzma)), ""),
    "tiff: lzw of 100 MB": (lambda: in_a_tile(5, bytes(imagecodecs.lzw_encode(bytes(10**6))) * 9), ""),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_asks_for_too_much_is_refused_with_its_reason(tmp_path: Path, name: str) -> None:
    build, reason = REFUSED[name]
    path = tmp_path / "a.png"
    path.write_bytes(build())
    outcome = attack(path)
    assert outcome.error is not None
    assert re.search(reason, outcome.error), outcome.error
    assert outcome.peak < 100 * MB
    assert outcome.seconds < 10


@pytest.mark.parametrize("name", READ)
def test_what_lies_beside_or_behind_the_picture_costs_nothing(tmp_path: Path, name: str) -> None:
    build, warning = READ[name]
    path = tmp_path / "a.png"
    path.write_bytes(build())
    outcome = attack(path)
    assert outcome.error is None
    (height, width, _), warnings = outcome.result
    assert (width, height) in ((40, 24), (24, 16))
    assert warning.split("|")[0] in " ".join(warnings) or not warning
    assert outcome.peak < 160 * MB
    assert outcome.seconds < 10


@pytest.mark.parametrize(
    "kind", ["pipe", "device", "socket", "folder", "link to a pipe", "sparse", "sparse with a header"]
)
def test_what_is_no_picture_file_is_refused_without_reading_it(tmp_path: Path, kind: str) -> None:
    path, peer = tmp_path / "a.png", None
    if "pipe" in kind:
        os.mkfifo(tmp_path / "pipe")
        path = tmp_path / "pipe" if kind == "pipe" else path
    if kind == "link to a pipe":
        path.symlink_to(tmp_path / "pipe")
    elif kind == "device":
        path = Path("/dev/zero")
    elif kind == "socket":
        peer = socket.socket(socket.AF_UNIX)
        os.chdir(tmp_path)
        peer.bind("a.png")
    elif kind == "folder":
        path.mkdir()
    elif "sparse" in kind:
        with path.open("wb") as file:
            file.write(made.png((40, 24), SMALL_PNG)[:33] if "header" in kind else b"")
            file.truncate(3 << 30)
    outcome = attack(path)
    wanted = {"sparse": "no picture of a kind", "sparse with a header": "3221.2 MB", "link to a pipe": "a named pipe"}
    assert outcome.error is not None
    assert wanted.get(kind, f"is a {kind.replace('pipe', 'named pipe')}") in outcome.error
    assert outcome.peak < 64 * MB
    assert outcome.seconds < 5
    if peer:
        peer.close()


@pytest.mark.parametrize("kind", ["jpeg", "gif", "webp", "bmp", "tiff", "tiles", "apng"])
def test_a_header_with_gigabytes_of_nothing_behind_it_costs_little(tmp_path: Path, kind: str) -> None:
    heads = {
        "jpeg": jpeg()[:-40],
        "gif": made.gif((4, 4), [])[:-1],
        "webp": b"RIFF\xff\xff\xff\x7fWEBP" + made.webp_canvas(40, 24, flags=2),
        "bmp": made.bmp((40, 24), 24, 0, b""),
        "tiff": tiff({279: ("I", [2 << 30]), 259: ("H", [8])}, [b"\0"]),
        "tiles": tiff(
            {322: ("H", [16]), 323: ("H", [16]), 324: ("I", [200] * 6), 325: ("I", [2 << 30] * 6)}, [b""] * 6
        ),
        "apng": made.png((40, 24), SMALL_PNG)[:33] + made.png_chunk(b"acTL", bytes(8)),
    }
    path = tmp_path / "a.png"
    with path.open("wb") as file:
        file.write(heads[kind])
        file.truncate((5 << 29) + 4096)
    outcome = attack(path)
    assert outcome.error is None or outcome.error.startswith(f"BadImageError: {path}: ")
    assert outcome.peak < 100 * MB
    assert outcome.seconds < 5


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.jpg", "a.webp", "a.gif", "a.bmp", "16.png", "f.tif"])
def test_memory_stays_within_a_small_multiple_of_the_floats(tmp_path: Path, name: str) -> None:
    height, width = 3000, 4000
    path = tmp_path / name
    if name == "16.png":
        path.write_bytes(imagecodecs.png_encode(np.zeros((height, width, 3), np.uint16)))
    elif name == "f.tif":
        path.write_bytes(imagecodecs.tiff_encode(np.zeros((height, width, 3), np.float32)))
    else:
        Image.new("RGB", (width, height)).save(path)
    outcome = attack(path, memory=1024 * MB)
    assert outcome.error is None
    assert outcome.peak < 3 * height * width * 3 * 4
