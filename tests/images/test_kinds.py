"""Pictures are known by their first bytes, whatever they are called."""

from io import BytesIO

import numpy as np
import pytest
import tifffile
from PIL import Image

from cudaspeed.images.kinds import HEAD_BYTES, recognise


def pillow(format_name: str, mode: str = "RGB", **settings: object) -> bytes:
    buffer = BytesIO()
    Image.new(mode, (8, 6)).save(buffer, format_name, **settings)
    return buffer.getvalue()


def tiff(**settings: object) -> bytes:
    buffer = BytesIO()
    tifffile.imwrite(buffer, np.zeros((6, 8), np.uint8), **settings)  # pyright: ignore[reportArgumentType]
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (pillow("PNG"), "PNG"),
        (pillow("PNG", save_all=True, append_images=[Image.new("RGB", (8, 6), "red")]), "PNG"),
        (pillow("JPEG"), "JPEG"),
        (pillow("MPO", save_all=True, append_images=[Image.new("RGB", (8, 6))]), "JPEG"),
        (pillow("WEBP"), "WebP"),
        (pillow("WEBP", lossless=True), "WebP"),
        (pillow("BMP"), "BMP"),
        (pillow("BMP", "P"), "BMP"),
        (pillow("BMP", "RGBA"), "BMP"),
        (pillow("GIF", "P"), "GIF"),
        (pillow("TIFF"), "TIFF"),
        (tiff(byteorder="<"), "TIFF"),
        (tiff(byteorder=">"), "TIFF"),
        (tiff(byteorder="<", bigtiff=True), "TIFF"),
        (tiff(byteorder=">", bigtiff=True), "TIFF"),
        (b"\x76\x2f\x31\x01\x02\0\0\0channels\0chlist\0", "OpenEXR"),
    ],
)
def test_what_programs_write_is_recognised(data: bytes, kind: str) -> None:
    assert recognise(data[:HEAD_BYTES]) == kind
    assert recognise(data) == kind


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0" * 64,
        b"BM",
        b"BMW and Bentley are makers of cars",
        b"RIFF\x24\0\0\0WAVEfmt ",
        b"RIFF",
        b"GIFs are fun",
        b"\x89PNG",
        b"\xff\xd8",
        b"II* is no TIFF",
        b"\0\0\0\x1cftypavif\0\0\0\0",
        b"%PDF-1.7",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"PK\x03\x04",
    ],
)
def test_anything_else_is_not(data: bytes) -> None:
    assert recognise(data) is None
