"""Odd pictures, drawn by code: read as Pillow reads them, and where Pillow cuts, as another reader does."""

from __future__ import annotations

import struct
from io import BytesIO
from pathlib import Path

import numpy as np
import odd_pictures as odd
import OpenEXR
import picture_bytes as made
import pytest
import tifffile
from PIL import Image, ImageOps

from cudaspeed.api.errors import BadImageError
from cudaspeed.images.codecs.picture import Picture, displayed
from cudaspeed.images.files import read_image, write_image

_PLAIN = {"1": "L", "P": "RGB", "CMYK": "RGB", "YCbCr": "RGB", "RGBX": "RGB", "PA": "RGBA", "La": "LA", "RGBa": "RGBA"}
# Where Pillow rounds twice, or down: five bits to eight, ink to light.
_LOOSE = ("bmp 555", "bmp 565", "CMYK", "YCCK", "YCbCr")


def by_pillow(data: bytes) -> np.ndarray:
    """[H, W, C] of levels, upright."""
    with Image.open(BytesIO(data)) as image:
        mode = _PLAIN.get(image.mode, image.mode)
        if image.has_transparency_data:
            mode = {"L": "LA", "RGB": "RGBA"}.get(mode, mode)
        turned = ImageOps.exif_transpose(image).convert(mode)
        return np.asarray(turned).reshape(turned.height, turned.width, -1).astype(int)


@pytest.mark.parametrize("size", odd.SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
@pytest.mark.parametrize("kind", odd.KINDS)
def test_pictures_are_read_as_pillow_reads_them(tmp_path: Path, kind: str, size: tuple[int, int]) -> None:
    path, seen = tmp_path / "a", 0
    for name, data in odd.KINDS[kind](size):
        path.write_bytes(data)
        picture = read_image(path)
        wanted = by_pillow(data)
        assert picture.pixels.shape == wanted.shape, name
        off = np.abs(picture.pixels * 255 - wanted).max()
        assert off <= (1 if any(loose in name for loose in _LOOSE) else 1e-4), (name, off)
        seen += 1
    assert seen > 4


@pytest.mark.parametrize("bits", [9, 10, 12, 14, 16])
@pytest.mark.parametrize("order", ["<", ">"])
def test_grey_tiff_of_any_depth_keeps_it(tmp_path: Path, bits: int, order: str) -> None:
    values = odd.samples((37, 20), 1, bits)
    unpacked = np.unpackbits(values.astype(">u2").view(np.uint8).reshape(20, 37, 2), axis=2)[..., 16 - bits :]
    packed = values.astype(f"{order}u2") if bits == 16 else np.packbits(unpacked.reshape(20, -1), axis=1)
    tags = {256: ("I", [37]), 257: ("I", [20]), 258: ("H", [bits]), 262: ("H", [1])}
    (tmp_path / "a.tif").write_bytes(made.tiff(tags, [packed.tobytes()], order=order))
    picture = read_image(tmp_path / "a.tif")
    assert picture.bits == 16
    np.testing.assert_allclose(picture.pixels[..., 0] * (2**bits - 1), values, atol=1e-2)


def test_big_endian_bigtiff_which_pillow_does_not_know(tmp_path: Path) -> None:
    values = odd.samples((37, 23), 3, 16)
    tifffile.imwrite(tmp_path / "a.tif", values, photometric="rgb", metadata=None, bigtiff=True, byteorder=">")
    np.testing.assert_array_equal(np.rint(read_image(tmp_path / "a.tif").pixels * 65535), values)


@pytest.mark.parametrize("channels", [2, 4])
@pytest.mark.parametrize("planar", [False, True])
def test_a_sample_too_many_that_is_not_explained_is_alpha(tmp_path: Path, channels: int, planar: bool) -> None:
    values = odd.samples((9, 7), channels)
    photometric = 1 if channels == 2 else 2
    tags = {
        256: ("I", [9]), 257: ("I", [7]), 258: ("H", [8] * channels), 259: ("H", [1]), 262: ("H", [photometric]),
        277: ("H", [channels]), 284: ("H", [2 if planar else 1]),
    }  # fmt: skip
    pieces = [plane.tobytes() for plane in np.moveaxis(values, 2, 0)] if planar else [values.tobytes()]
    (tmp_path / "a.tif").write_bytes(made.tiff(tags, pieces))
    picture = read_image(tmp_path / "a.tif")
    np.testing.assert_array_equal(np.rint(picture.pixels * 255), values)
    assert picture.warnings == ()


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("predictor", [False, True])
def test_float_tiff_keeps_what_is_brighter_than_white(tmp_path: Path, dtype: str, predictor: bool) -> None:
    values = np.random.default_rng(5).uniform(0, 3.5, (20, 30, 3)).astype(dtype)
    kept = values.astype(np.float32)
    tifffile.imwrite(
        tmp_path / "a.tif", values, photometric="rgb", compression="zlib", predictor=predictor, metadata=None
    )
    picture = read_image(tmp_path / "a.tif")
    assert (picture.bits, float(picture.pixels.max())) == (32, 1.0)
    np.testing.assert_allclose(displayed(picture), kept, rtol=1e-6)
    assert "white" in " ".join(picture.warnings)
    write_image(tmp_path / "b.tif", picture)
    back = tifffile.imread(tmp_path / "b.tif")
    assert back.dtype == np.float32
    np.testing.assert_allclose(back, kept, rtol=1e-6)


@pytest.mark.parametrize("channels", ["Y", "YA", "RGB", "RGBA"])
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_exr_is_shown_by_the_curve_that_models_know_and_written_as_light(
    tmp_path: Path, channels: str, dtype: str
) -> None:
    light = np.random.default_rng(6).uniform(0, 4, (20, 30, len(channels))).astype(dtype)
    if "A" in channels:
        light[..., -1] = np.random.default_rng(7).uniform(0.2, 1, (20, 30))
    header = {"compression": OpenEXR.ZIP_COMPRESSION, "type": OpenEXR.scanlineimage}
    planes = {name: np.ascontiguousarray(light[..., index]) for index, name in enumerate(channels)}
    OpenEXR.File(header, planes).write(str(tmp_path / "a.exr"))

    picture = read_image(tmp_path / "a.exr")
    assert (picture.bits, picture.pixels.shape, float(picture.pixels.max()) <= 1) == (32, light.shape, True)
    write_image(tmp_path / "b.exr", picture)

    back = OpenEXR.File(str(tmp_path / "b.exr"), separate_channels=True).channels()
    for index, name in enumerate(channels):
        np.testing.assert_allclose(back[name].pixels, light[..., index].astype(np.float32), rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("share", [0.3, 0.7, 0.95])
def test_an_exr_that_is_cut_short_is_refused_and_nothing_is_printed(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], share: float
) -> None:
    header = {"compression": OpenEXR.ZIP_COMPRESSION, "type": OpenEXR.scanlineimage}
    buffer = BytesIO()
    OpenEXR.File(header, {"Y": np.random.default_rng(1).random((200, 30), np.float32)}).write(buffer)
    (tmp_path / "a.exr").write_bytes(buffer.getvalue()[: int(len(buffer.getvalue()) * share)])
    with pytest.raises(BadImageError, match="cut short"):
        read_image(tmp_path / "a.exr")
    assert capfd.readouterr().out == ""


def test_other_channels_and_parts_of_an_exr_are_left_out_and_said(tmp_path: Path) -> None:
    kind = {"type": OpenEXR.scanlineimage}
    planes = {name: np.full((4, 5), 0.5, np.float16) for name in "RGBZ"}
    parts = [OpenEXR.Part({**kind, "name": "a"}, planes), OpenEXR.Part({**kind, "name": "b"}, {"Z": planes["Z"]})]
    OpenEXR.File(parts).write(str(tmp_path / "a.exr"))
    picture = read_image(tmp_path / "a.exr")
    assert picture.pixels.shape == (4, 5, 3)
    assert "2 pictures" in picture.warnings[0]
    assert "Z were left out" in picture.warnings[1]


def test_mid_grey_light_is_shown_as_srgb_has_it(tmp_path: Path) -> None:
    header = {"compression": OpenEXR.ZIP_COMPRESSION, "type": OpenEXR.scanlineimage}
    OpenEXR.File(header, {"Y": np.full((2, 3), 0.2140411, np.float32)}).write(str(tmp_path / "a.exr"))
    np.testing.assert_allclose(read_image(tmp_path / "a.exr").pixels, 0.5, atol=1e-5)


def test_fireflies_are_clamped_and_said(tmp_path: Path) -> None:
    light = np.full((4, 5), 0.5, np.float32)
    light[1, 1] = 60000
    header = {"compression": OpenEXR.ZIP_COMPRESSION, "type": OpenEXR.scanlineimage}
    OpenEXR.File(header, {"Y": light}).write(str(tmp_path / "a.exr"))
    picture = read_image(tmp_path / "a.exr")
    assert picture.white == 4
    assert any("clamped" in warning for warning in picture.warnings)


def test_what_is_no_number_is_replaced_and_said(tmp_path: Path) -> None:
    values = np.full((4, 5), 0.5, np.float32)
    values[0, :3] = np.nan, np.inf, -np.inf
    values[1, 1] = -0.25
    tifffile.imwrite(tmp_path / "a.tif", values, metadata=None)
    picture = read_image(tmp_path / "a.tif")
    assert picture.pixels[0, :3, 0].tolist() == [0, 0.5, 0]
    assert picture.pixels[1, 1, 0] == 0
    assert "3 values are NaN or infinite" in picture.warnings[0]
    assert "below 0, down to -0.25" in picture.warnings[1]


def test_floats_in_formats_of_integers_are_rounded_and_clipped_with_warnings(tmp_path: Path) -> None:
    pixels = np.array([[[0.25], [1.0]]], np.float32)
    warnings = write_image(tmp_path / "a.png", Picture(pixels, 32, white=2.0))
    np.testing.assert_allclose(read_image(tmp_path / "a.png").pixels, [[[0.5], [1.0]]], atol=1e-4)
    assert "floats were rounded" in warnings[0]
    assert "values up to 2 were clipped" in warnings[1]


@pytest.mark.parametrize("bits", [8, 16])
def test_ink_becomes_light(tmp_path: Path, bits: int) -> None:
    top = 2**bits - 1
    ink = np.array([[[0, 0, 0, 0], [top, 0, 0, 0], [0, 0, 0, top], [0, top // 2, 0, top // 2]]])
    tifffile.imwrite(
        tmp_path / "a.tif", ink.astype(f"u{bits // 8}"), photometric="separated", metadata=None, planarconfig="contig"
    )
    picture = read_image(tmp_path / "a.tif")
    wanted = [[1, 1, 1], [0, 1, 1], [0, 0, 0], [0.5, 0.25, 0.5]]
    np.testing.assert_allclose(picture.pixels[0], wanted, atol=1.5 / 255)
    assert picture.bits == bits
    assert "CMYK" in picture.warnings[0]


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (made.bmp((4, 4), 0, 4, bytes(99)), "0 bits a pixel, JPEG inside"),
        (made.bmp((4, 4), 0, 5, bytes(99)), "0 bits a pixel, PNG inside"),
        (made.bmp((4, 4), 2, 0, bytes(99)), "2 bits a pixel, uncompressed"),
        (made.bmp((4, 4), 24, 1, bytes(99)), "24 bits a pixel, RLE8"),
        (made.bmp((4, 4), 64, 0, bytes(999)), "64 bits a pixel"),
        (b"BM" + struct.pack("<IHHI", 99, 0, 0, 30) + struct.pack("<IIIHH", 16, 4, 4, 1, 24) + bytes(99), "16 bytes"),
    ],
)
def test_kinds_of_bmp_that_are_not_supported_are_named(tmp_path: Path, data: bytes, kind: str) -> None:
    (tmp_path / "a.bmp").write_bytes(data)
    with pytest.raises(BadImageError, match=f"of a kind that is not supported.*{kind}|{kind}.* not supported"):
        read_image(tmp_path / "a.bmp")


def test_bmp_by_fields_of_any_bits(tmp_path: Path) -> None:
    words = np.array([[0x0F00, 0x00F0, 0x000F, 0xFFFF]], "<u2")
    fields = struct.pack("<4I", 0xF00, 0xF0, 0xF, 0xF000)
    (tmp_path / "a.bmp").write_bytes(made.bmp((4, 1), 16, 6, words.tobytes(), fields))
    wanted = [[[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [1, 1, 1, 1]]]
    np.testing.assert_array_equal(read_image(tmp_path / "a.bmp").pixels, wanted)
