"""A folder of odd pictures, drawn by code: kinds that are valid and rare, which readers get wrong."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator
from io import BytesIO

import imagecodecs
import numpy as np
import picture_bytes as made
import tifffile
from PIL import Image, ImageCms

ORIENTATION = 0x0112
PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
SIZES = ((37, 23), (1, 1), (1, 40), (64, 1), (16, 16))  # width, height


def samples(size: tuple[int, int], channels: int, bits: int = 8) -> np.ndarray:
    """[H, W] or [H, W, C] of noise on a ramp, of which each size has its own."""
    width, height = size
    rng = np.random.default_rng(width * 1000 + height)
    ramp = np.linspace(0, 2**bits - 1, width * height * channels).reshape(height, width, channels)
    noisy = np.clip(ramp + rng.normal(0, 2**bits / 16, ramp.shape), 0, 2**bits - 1)
    noisy = noisy.astype(np.uint16 if bits > 8 else np.uint8)
    return noisy[..., 0] if channels == 1 else noisy


def image(size: tuple[int, int], mode: str) -> Image.Image:
    channels = {"L": 1, "LA": 2, "RGB": 3, "RGBA": 4, "CMYK": 4}
    if mode in channels:
        return Image.fromarray(samples(size, channels[mode]), mode)
    if mode == "P":
        return image(size, "RGB").quantize(17)
    return image(size, "L").convert(mode)


def saved(picture: Image.Image, format_name: str, **options: object) -> bytes:
    buffer = BytesIO()
    picture.save(buffer, format_name, **options)
    return buffer.getvalue()


def png_rows(values: np.ndarray, bits: int) -> bytes:
    """Rows of [H, W, ...] as PNG has them, without filters, packed to bytes."""
    flat = values.reshape(values.shape[0], -1)
    if bits == 16:
        return b"".join(b"\0" + row.astype(">u2").tobytes() for row in flat)
    if bits == 8:
        return b"".join(b"\0" + row.astype(np.uint8).tobytes() for row in flat)
    unpacked = np.unpackbits(flat.astype(np.uint8)[..., None], axis=2)[..., 8 - bits :]
    return b"".join(b"\0" + np.packbits(row).tobytes() for row in unpacked.reshape(flat.shape[0], -1))


def adam7(values: np.ndarray, bits: int) -> bytes:
    """The seven passes of an interlaced PNG."""
    starts = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
    passes = (values[top::down, left::across] for left, top, across, down in starts)
    return b"".join(png_rows(part, bits) for part in passes if part.size)


def interlaced(size: tuple[int, int], values: np.ndarray, kind: tuple[int, int], beside: bytes = b"") -> bytes:
    header = struct.pack(">IIBBBBB", *size, *kind, 0, 0, 1)
    data = made.png_chunk(b"IDAT", zlib.compress(adam7(values, kind[0])))
    head = made.PNG_SIGNATURE + made.png_chunk(b"IHDR", header)
    return head + beside + data + made.png_chunk(b"IEND", b"")


def pngs(size: tuple[int, int]) -> Iterator[tuple[str, bytes]]:
    for bits in (1, 2, 4, 8):
        grey = samples(size, 1) >> 8 - bits
        key = made.png_chunk(b"tRNS", struct.pack(">H", int(grey[0, 0])))
        yield f"grey {bits}", made.png(size, png_rows(grey, bits), (bits, 0))
        yield f"grey {bits} key", made.png(size, png_rows(grey, bits), (bits, 0), key)
        yield f"grey {bits} interlaced", interlaced(size, grey, (bits, 0))
        index = grey % min(16, 2**bits)
        table = made.png_chunk(b"PLTE", bytes(range(48))[: 3 * 2**bits])
        some = made.png_chunk(b"tRNS", bytes([0, 99, 200])[: 2**bits])
        yield f"palette {bits}", made.png(size, png_rows(index, bits), (bits, 3), table)
        yield f"palette {bits} alpha", made.png(size, png_rows(index, bits), (bits, 3), table + some)
        yield f"palette {bits} interlaced", interlaced(size, index, (bits, 3), table + some)
    for name, kind, channels in (("grey alpha", 4, 2), ("rgb", 2, 3), ("rgba", 6, 4)):
        values = samples(size, channels)
        yield name, made.png(size, png_rows(values, 8), (8, kind))
        yield f"{name} interlaced", interlaced(size, values, (8, kind))
    values = samples(size, 3)
    key = made.png_chunk(b"tRNS", struct.pack(">3H", *values[0, 0]))
    yield "rgb key", made.png(size, png_rows(values, 8), (8, 2), key)
    yield "rgb profile", saved(Image.fromarray(values), "PNG", icc_profile=PROFILE)


def oriented(size: tuple[int, int]) -> Iterator[tuple[str, bytes]]:
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[ORIENTATION] = orientation
        yield f"jpeg turned {orientation}", saved(image(size, "RGB"), "JPEG", exif=exif)
        yield f"png turned {orientation}", saved(image(size, "RGBA"), "PNG", exif=exif)
        yield f"webp turned {orientation}", saved(image(size, "RGB"), "WEBP", lossless=True, exif=exif)
        yield f"tiff turned {orientation}", saved(image(size, "L"), "TIFF", tiffinfo={ORIENTATION: orientation})


def jpegs(size: tuple[int, int]) -> Iterator[tuple[str, bytes]]:
    for mode in ("L", "RGB", "CMYK"):
        yield f"jpeg {mode}", saved(image(size, mode), "JPEG")
        yield f"jpeg {mode} progressive", saved(image(size, mode), "JPEG", progressive=True)
    for subsampling in ("4:4:4", "4:2:2", "4:2:0"):
        yield f"jpeg {subsampling}", saved(image(size, "RGB"), "JPEG", subsampling=subsampling)
    yield "jpeg restarts", saved(image(size, "RGB"), "JPEG", restart_marker_blocks=1)
    yield "jpeg grey restarts", saved(image(size, "L"), "JPEG", restart_marker_rows=1)
    yield "jpeg of mid-grey", saved(Image.new("RGB", size, (128, 128, 128)), "JPEG")
    yield "jpeg of mid-grey progressive", saved(Image.new("L", size, 128), "JPEG", progressive=True)
    yield "jpeg as RGB", saved(image(size, "RGB"), "JPEG", keep_rgb=True)
    ycck = imagecodecs.jpeg8_encode(samples(size, 4), colorspace="CMYK", outcolorspace="YCCK")
    yield "jpeg YCCK", bytes(ycck)


def tiffs(size: tuple[int, int]) -> Iterator[tuple[str, bytes]]:
    for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK"):
        yield f"tiff {mode}", saved(image(size, mode), "TIFF")
    for compression in ("tiff_lzw", "tiff_adobe_deflate", "packbits", "lzma", "zstd", "jpeg"):
        yield f"tiff {compression}", saved(image(size, "RGB"), "TIFF", compression=compression)
    for compression in ("group3", "group4", "tiff_ccitt", "packbits"):
        yield f"tiff bilevel {compression}", saved(image(size, "1"), "TIFF", compression=compression)
    yield "tiff of YCbCr", saved(image(size, "RGB").convert("YCbCr"), "TIFF")
    rgb = samples(size, 3)
    for name, options in {
        "planar": {"planarconfig": "separate"},
        "tiles": {"tile": (16, 32), "compression": "zlib", "predictor": True},
        "strips": {"rowsperstrip": 3, "compression": "lzw", "predictor": True},
        "big endian": {"byteorder": ">"},
        "BigTIFF": {"bigtiff": True},
    }.items():
        buffer = BytesIO()
        stored = np.moveaxis(rgb, 2, 0) if name == "planar" else rgb
        tifffile.imwrite(buffer, stored, photometric="rgb", metadata=None, **options)
        yield f"tiff {name}", buffer.getvalue()


def webps(size: tuple[int, int]) -> Iterator[tuple[str, bytes]]:
    for mode in ("RGB", "RGBA"):
        yield f"webp {mode}", saved(image(size, mode), "WEBP")
        yield f"webp {mode} lossless", saved(image(size, mode), "WEBP", lossless=True)
    yield "webp profile", saved(image(size, "RGB"), "WEBP", icc_profile=PROFILE)


def gifs(size: tuple[int, int]) -> Iterator[tuple[str, bytes]]:
    picture = image(size, "P")
    yield "gif", saved(picture, "GIF", interlace=0)
    yield "gif interlaced", saved(picture, "GIF", interlace=1)
    yield "gif transparent", saved(picture, "GIF", transparency=3)
    yield "gif grey", saved(image(size, "L"), "GIF")
    yield "gif bilevel", saved(image(size, "1"), "GIF")
    one = made.gif_frame((size[0] - 1, size[1] - 1, 1, 1), b"\x4c\x01")
    yield "gif whose frame is smaller than its screen", made.gif(size, [one])
    clear = b"!\xf9\x04\x01\0\0\0\0"
    yield "gif whose frame is smaller, transparent", made.gif(size, [one], beside=clear)


def bmps(size: tuple[int, int]) -> Iterator[tuple[str, bytes]]:
    for mode in ("1", "L", "P", "RGB", "RGBA"):
        yield f"bmp {mode}", saved(image(size, mode), "BMP")
    width, height = size
    rows = b"".join(row.tobytes() + bytes(-width * 3 % 4) for row in samples(size, 3))
    yield "bmp from above", made.bmp((width, -height), 24, 0, rows)
    runs = b"".join(bytes([width, value]) + b"\0\0" for value in range(height)) + b"\0\1"
    table = b"".join(bytes([value, 255 - value, 7, 0]) for value in range(256))
    yield "bmp RLE8", made.bmp(size, 8, 1, runs, table)
    old = struct.pack("<IHHI", 26 + len(rows), 0, 0, 26) + struct.pack("<IHHHH", 12, width, height, 1, 24)
    yield "bmp of OS/2", b"BM" + old + rows
    words = samples(size, 1, 16).astype("<u2")
    packed = b"".join(row.tobytes() + bytes(-width * 2 % 4) for row in words)
    yield "bmp 555", made.bmp(size, 16, 0, packed)
    yield "bmp 565", made.bmp(size, 16, 3, packed, struct.pack("<3I", 0xF800, 0x7E0, 0x1F))
    wide = samples(size, 2, 16).astype("<u2").tobytes()
    yield "bmp 32 by fields", made.bmp(size, 32, 3, wide, struct.pack("<3I", 0xFF0000, 0xFF00, 0xFF))


KINDS: dict[str, Callable[[tuple[int, int]], Iterator[tuple[str, bytes]]]] = {
    "png": pngs,
    "oriented": oriented,
    "jpeg": jpegs,
    "tiff": tiffs,
    "webp": webps,
    "gif": gifs,
    "bmp": bmps,
}
