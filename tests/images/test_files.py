"""Picture files: what is read is what is in the file, what is written comes back, and failures leave nothing behind."""

import errno
import struct
import tracemalloc
import zlib
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms, ImageOps, JpegImagePlugin

from cudaspeed.api.errors import BadImageError, OutputError
from cudaspeed.images.codecs import picture as codec
from cudaspeed.images.codecs.metadata import Metadata
from cudaspeed.images.codecs.picture import Picture
from cudaspeed.images.files import check_fits, read_image, write_image

ICC = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
MAKE, ORIENTATION = 0x010F, 0x0112


def noise(*shape: int, bits: int = 8) -> np.ndarray:
    levels = np.random.default_rng(7).integers(0, 2**bits, shape)
    return levels.astype(np.uint16 if bits == 16 else np.uint8)


def levels(picture: Picture) -> np.ndarray:
    return np.rint(picture.pixels.astype(np.float64) * (2**picture.bits - 1)).astype(int)


def smooth(channels: int) -> np.ndarray:
    """[40, 48, C] in 0..1 without edges, which lossy formats keep well."""
    y, x = np.mgrid[0:40, 0:48] / 48
    return np.stack([x, y, (x + y) / 2, 0.3 + 0.5 * x][:channels], axis=2).astype(np.float32)


def exif(orientation: int = 1) -> bytes:
    block = Image.Exif()
    block[MAKE] = "Maker"
    block[ORIENTATION] = orientation
    return block.tobytes()


def with_chunk(png: bytes, name: bytes, payload: bytes) -> bytes:
    chunk = struct.pack(">I", len(payload)) + name + payload + struct.pack(">I", zlib.crc32(name + payload))
    return png[:33] + chunk + png[33:]


@pytest.mark.parametrize("ending", [".png", ".tif"])
@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_lossless_formats_give_every_level_back(tmp_path: Path, ending: str, bits: int, channels: int) -> None:
    every = np.arange(2**bits).reshape(-1, 256)
    wanted = np.stack([np.roll(every, 37 * c) for c in range(channels)], axis=2)
    picture = Picture((wanted / (2**bits - 1)).astype(np.float32), bits)

    assert write_image(tmp_path / f"a{ending}", picture) == ()
    back = read_image(tmp_path / f"a{ending}")

    assert (back.bits, back.pixels.dtype, back.warnings) == (bits, np.float32, ())
    np.testing.assert_array_equal(levels(back), wanted)


def test_values_are_rounded_to_the_nearest_level_and_clipped(tmp_path: Path) -> None:
    values = np.array([-0.2, 0.4 / 255, 0.6 / 255, 254.6 / 255, 1.3], np.float32).reshape(1, 5, 1)
    write_image(tmp_path / "a.png", Picture(values))
    assert levels(read_image(tmp_path / "a.png")).ravel().tolist() == [0, 0, 1, 255, 255]


@pytest.mark.parametrize("ending", [".jpg", ".jpeg", ".webp", ".JPG"])
@pytest.mark.parametrize("channels", [1, 3])
def test_lossy_formats_stay_close(tmp_path: Path, ending: str, channels: int) -> None:
    write_image(tmp_path / f"a{ending}", Picture(smooth(channels)))
    back = read_image(tmp_path / f"a{ending}").pixels
    np.testing.assert_allclose(back, np.broadcast_to(smooth(channels), back.shape), atol=6 / 255)


def test_jpeg_keeps_full_chroma(tmp_path: Path) -> None:
    write_image(tmp_path / "a.jpg", Picture(smooth(3)))
    with Image.open(tmp_path / "a.jpg") as image:
        assert JpegImagePlugin.get_sampling(image) == 0


def test_webp_keeps_alpha_and_jpeg_says_that_it_does_not(tmp_path: Path) -> None:
    assert write_image(tmp_path / "a.webp", Picture(smooth(4))) == ()
    np.testing.assert_allclose(read_image(tmp_path / "a.webp").pixels[..., 3], smooth(4)[..., 3], atol=2 / 255)

    (warning,) = write_image(tmp_path / "a.jpg", Picture(smooth(4)))
    assert "alpha" in warning
    np.testing.assert_allclose(read_image(tmp_path / "a.jpg").pixels, smooth(3), atol=6 / 255)


@pytest.mark.parametrize("ending", [".jpg", ".webp"])
def test_sixteen_bits_become_eight_with_a_warning(tmp_path: Path, ending: str) -> None:
    (warning,) = write_image(tmp_path / f"a{ending}", Picture(smooth(3), bits=16))
    assert "8 bits" in warning
    assert read_image(tmp_path / f"a{ending}").bits == 8


@pytest.mark.parametrize(
    ("ending", "bits"), [(".png", 8), (".png", 16), (".jpg", 8), (".webp", 8), (".tif", 8), (".tif", 16)]
)
def test_colour_profile_is_kept(tmp_path: Path, ending: str, bits: int) -> None:
    path = tmp_path / f"a{ending}"
    write_image(path, Picture(smooth(3), bits, metadata=Metadata(icc=ICC)))
    assert read_image(path).metadata.icc == ICC
    if ending == ".png":  # a second reader, which checks every chunk's checksum
        with Image.open(path) as image:
            image.verify()
            assert image.info["icc_profile"] == ICC


def test_a_grey_profile_is_not_put_on_the_rgb_that_webp_makes_of_grey(tmp_path: Path) -> None:
    grey_profile = ICC[:16] + b"GRAY" + ICC[20:]
    (warning,) = write_image(tmp_path / "a.webp", Picture(smooth(1), metadata=Metadata(icc=grey_profile)))
    assert "grey colour profile" in warning
    assert read_image(tmp_path / "a.webp").metadata.icc is None
    assert write_image(tmp_path / "a.png", Picture(smooth(1), metadata=Metadata(icc=grey_profile))) == ()
    assert read_image(tmp_path / "a.png").metadata.icc == grey_profile


@pytest.mark.parametrize(("ending", "bits"), [(".png", 8), (".png", 16), (".jpg", 8), (".webp", 8), (".tif", 8)])
def test_exif_is_kept_without_the_orientation_that_was_applied(tmp_path: Path, ending: str, bits: int) -> None:
    Image.fromarray(noise(4, 6, 3)).save(tmp_path / "in.jpg", exif=exif(orientation=6))
    picture = read_image(tmp_path / "in.jpg")
    assert picture.pixels.shape == (6, 4, 3)

    assert write_image(tmp_path / f"a{ending}", replace(picture, bits=bits)) == ()
    with Image.open(tmp_path / f"a{ending}") as image:
        kept = image.getexif()
        assert (kept[MAKE], ORIENTATION in kept, image.size) == ("Maker", False, (4, 6))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["8-bit png", "16-bit png", "8-bit tif", "16-bit tif"])
def test_orientation_is_applied(tmp_path: Path, kind: str, orientation: int) -> None:
    bits, ending = int(kind.split("-")[0]), kind[-3:]
    stored, path = noise(3, 5, 3, bits=bits), tmp_path / f"a.{ending}"
    if ending == "tif":
        tag = (ORIENTATION, "H", 1, orientation, True)
        tifffile.imwrite(path, stored, photometric="rgb", extratags=[tag], metadata=None)
    else:
        payload = exif(orientation=orientation).removeprefix(b"Exif\0\0")
        path.write_bytes(with_chunk(imagecodecs.png_encode(stored), b"eXIf", payload))

    picture = read_image(path)

    # Pillow's own turn of each channel is the reference
    turned = []
    for channel in np.moveaxis(stored, 2, 0):
        image = Image.fromarray(channel.astype(np.int32))
        image.getexif()[ORIENTATION] = orientation
        turned.append(np.asarray(ImageOps.exif_transpose(image)))
    np.testing.assert_array_equal(levels(picture), np.stack(turned, axis=2))


def test_other_modes_become_grey_or_rgb(tmp_path: Path) -> None:
    grey = Image.fromarray(noise(5, 6))

    grey.convert("1").save(tmp_path / "bilevel.png")
    assert set(np.unique(read_image(tmp_path / "bilevel.png").pixels)) == {0.0, 1.0}
    assert read_image(tmp_path / "bilevel.png").pixels.shape == (5, 6, 1)

    palette = Image.new("P", (2, 1))
    palette.putpalette([255, 0, 0, 0, 0, 255])
    palette.putpixel((1, 0), 1)
    palette.save(tmp_path / "palette.png")
    assert read_image(tmp_path / "palette.png").pixels.tolist() == [[[1, 0, 0], [0, 0, 1]]]
    palette.save(tmp_path / "clear.png", transparency=1)
    assert read_image(tmp_path / "clear.png").pixels.tolist() == [[[1, 0, 0, 1], [0, 0, 1, 0]]]

    two = Image.fromarray(np.array([[0, 200]], np.uint8))
    two.save(tmp_path / "key.png", transparency=200)
    assert levels(read_image(tmp_path / "key.png")).tolist() == [[[0, 255], [200, 0]]]

    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "ink.jpg", icc_profile=ICC)
    ink = read_image(tmp_path / "ink.jpg")
    np.testing.assert_allclose(ink.pixels, np.broadcast_to([1.0, 0, 0], (8, 8, 3)), atol=0.02)
    assert ink.metadata.icc is None
    assert "CMYK" in ink.warnings[0]


def test_colour_key_of_a_16_bit_png_becomes_alpha(tmp_path: Path) -> None:
    stored = np.array([[[1000, 2000, 3000], [1000, 2000, 3001]]], np.uint16)
    key = struct.pack(">HHH", 1000, 2000, 3000)
    (tmp_path / "a.png").write_bytes(with_chunk(imagecodecs.png_encode(stored), b"tRNS", key))
    wanted = [[[1000, 2000, 3000, 0], [1000, 2000, 3001, 65535]]]
    assert levels(read_image(tmp_path / "a.png")).tolist() == wanted


def test_bmp_is_read_and_the_ending_does_not_matter(tmp_path: Path) -> None:
    Image.fromarray(noise(4, 5, 3)).save(tmp_path / "a.png", format="BMP")
    np.testing.assert_array_equal(levels(read_image(tmp_path / "a.png")), noise(4, 5, 3))


@pytest.mark.parametrize("name", ["a.webp", "a.png", "8.tif", "16.tif"])
def test_only_the_first_of_several_pictures_is_read_and_it_says_so(tmp_path: Path, name: str) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("white", "black", "red")]
    if name == "16.tif":
        pages = np.zeros((3, 8, 8), np.uint16)
        pages[0] = 65535
        tifffile.imwrite(tmp_path / name, pages, photometric="minisblack", metadata=None)
    else:
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:])
    picture = read_image(tmp_path / name)
    assert picture.pixels.min() > 0.99
    assert "3 pictures" in picture.warnings[0]


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize(
    "layout",
    [
        {"planarconfig": "separate"},
        {"tile": (16, 16), "compression": "zlib"},
        {"rowsperstrip": 3, "compression": "lzw", "predictor": True},
        {"byteorder": ">", "bigtiff": True},
    ],
    ids=["planar", "tiles", "strips", "big"],
)
def test_tiff_layouts(tmp_path: Path, bits: int, layout: dict) -> None:
    stored = noise(20, 37, 3, bits=bits)
    on_file = np.moveaxis(stored, 2, 0) if "planarconfig" in layout else stored
    tifffile.imwrite(tmp_path / "a.tif", on_file, photometric="rgb", metadata=None, **layout)
    picture = read_image(tmp_path / "a.tif")
    assert picture.bits == bits
    np.testing.assert_array_equal(levels(picture), stored)


@pytest.mark.parametrize("bits", [8, 16])
def test_tiff_white_is_zero(tmp_path: Path, bits: int) -> None:
    stored = noise(4, 5, bits=bits)
    tifffile.imwrite(tmp_path / "a.tif", stored, photometric="miniswhite", metadata=None)
    np.testing.assert_array_equal(levels(read_image(tmp_path / "a.tif"))[..., 0], 2**bits - 1 - stored.astype(int))


@pytest.mark.parametrize("bits", [8, 16])
def test_tiff_premultiplied_alpha_is_divided_out(tmp_path: Path, bits: int) -> None:
    top = 2**bits - 1
    stored = np.array([[[top // 4, 0, top // 2, top // 2], [0, 0, 0, 0]]], np.uint16 if bits == 16 else np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", stored, photometric="rgb", extrasamples=["assocalpha"], metadata=None)
    pixels = read_image(tmp_path / "a.tif").pixels
    np.testing.assert_allclose(pixels, [[[0.5, 0, 1, 0.5], [0, 0, 0, 0]]], atol=1.5 / 255)


@pytest.mark.parametrize(("channels", "kind", "kept"), [(5, "unassalpha", 4), (4, "unspecified", 3)])
def test_tiff_channels_that_are_not_alpha_are_left_out_with_a_warning(
    tmp_path: Path, channels: int, kind: str, kept: int
) -> None:
    stored = noise(channels, 4, 5, bits=16)
    kinds = [kind] + ["unspecified"] * (channels - 4)
    tifffile.imwrite(
        tmp_path / "a.tif", stored, photometric="rgb", planarconfig="separate", extrasamples=kinds, metadata=None
    )
    picture = read_image(tmp_path / "a.tif")
    np.testing.assert_array_equal(levels(picture), np.moveaxis(stored, 0, 2)[..., :kept])
    assert "left out" in picture.warnings[0]


@pytest.mark.parametrize(
    ("dtype", "photometric", "kind"),
    [
        ("uint32", "rgb", "integers of 32 bits"),
        ("int16", "rgb", "signed integers of 16 bits"),
        ("complex64", "minisblack", "complex floats of 64 bits"),
        ("float32", "separated", "floats that are neither grey nor RGB"),
        ("uint8", "cielab", "CIELab"),
    ],
)
def test_tiff_samples_that_are_not_supported_are_named(tmp_path: Path, dtype: str, photometric: str, kind: str) -> None:
    shape = (4, 5) if photometric == "minisblack" else (4, 5, 4 if photometric == "separated" else 3)
    tifffile.imwrite(tmp_path / "a.tif", np.zeros(shape, dtype), photometric=photometric, metadata=None)
    with pytest.raises(BadImageError, match=rf"a\.tif.*{kind}"):
        read_image(tmp_path / "a.tif")


def encoded(kind: str) -> bytes:
    path = Path(kind)
    if kind in ("16.png", "16.tif"):
        stored = noise(24, 40, 3, bits=16)
        return imagecodecs.png_encode(stored) if path.suffix == ".png" else imagecodecs.tiff_encode(stored)
    buffer = BytesIO()
    options = {"progressive.jpg": {"progressive": True}, "lzw.tif": {"compression": "tiff_lzw"}}.get(kind, {})
    Image.fromarray(noise(24, 40, 3)).save(buffer, Image.registered_extensions()[path.suffix], **options)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "kind", ["8.png", "16.png", "8.jpg", "progressive.jpg", "8.webp", "8.bmp", "8.tif", "lzw.tif", "16.tif"]
)
def test_a_truncated_picture_is_refused_wherever_it_ends(tmp_path: Path, kind: str) -> None:
    data, path = encoded(kind), tmp_path / kind
    path.write_bytes(data)
    read_image(path)
    # The last 20 bytes may be no more than an end mark, without which the picture is still whole.
    for end in {*np.linspace(1, len(data) - 21, 25, dtype=int).tolist(), 3, 8, 24, 33}:
        path.write_bytes(data[:end])
        with pytest.raises(BadImageError, match=kind):
            read_image(path)


def ended_jpeg(share: float, **options: object) -> bytes:
    """The first part of a JPEG, with an end mark behind it, as programs close what they could not finish."""
    buffer = BytesIO()
    Image.fromarray(noise(64, 96, 3)).save(buffer, "JPEG", **options)
    data = buffer.getvalue()
    start = data.rfind(b"\xff\xda")
    return data[: start + int((len(data) - start) * share)].rstrip(b"\xff") + b"\xff\xd9"


@pytest.mark.parametrize("share", [0.05, 0.5, 0.9])
@pytest.mark.parametrize(
    "options",
    [{}, {"progressive": True}, {"restart_marker_rows": 1}, {"restart_marker_blocks": 5}, {"subsampling": "4:2:0"}],
    ids=["baseline", "progressive", "restarts", "many restarts", "subsampled"],
)
def test_a_jpeg_that_was_cut_and_ended_again_is_refused(tmp_path: Path, options: dict, share: float) -> None:
    (tmp_path / "a.jpg").write_bytes(ended_jpeg(share, **options))
    with pytest.raises(BadImageError, match="cut short"):
        read_image(tmp_path / "a.jpg")
    (tmp_path / "a.jpg").write_bytes(ended_jpeg(1, **options))
    read_image(tmp_path / "a.jpg")


@pytest.mark.parametrize("compression", ["group3", "group4", "tiff_ccitt", "jpeg"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.8])
def test_a_tiff_whose_strip_ends_early_is_refused(tmp_path: Path, compression: str, share: float) -> None:
    whole, path = Image.fromarray(noise(40, 64) > 200 if compression != "jpeg" else noise(40, 64)), tmp_path / "a.tif"
    whole.save(path, compression=compression)
    read_image(path)
    with Image.open(path) as image:
        length = image.tag_v2[279][0]
    data = path.read_bytes()
    counts = struct.pack("<HHII", 279, 4, 1, length)
    assert counts in data
    path.write_bytes(data.replace(counts, struct.pack("<HHII", 279, 4, 1, int(length * share))))
    with pytest.raises(BadImageError, match="cut short"):
        read_image(path)


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("interlace", [False, True])
def test_a_png_whose_data_end_before_its_rows_is_refused(tmp_path: Path, bits: int, interlace: bool) -> None:
    rows = zlib.compress((b"\0" + bytes(40 * bits // 8)) * 20)
    header = struct.pack(">IIBBBBB", 40, 30, bits, 0, 0, 0, interlace)
    data = b"\x89PNG\r\n\x1a\n"
    for name, payload in ((b"IHDR", header), (b"IDAT", rows), (b"IEND", b"")):
        data += struct.pack(">I", len(payload)) + name + payload + struct.pack(">I", zlib.crc32(name + payload))
    (tmp_path / "a.png").write_bytes(data)
    with pytest.raises(BadImageError, match="cut short"):
        read_image(tmp_path / "a.png")


def test_a_large_profile_does_not_cost_the_picture(tmp_path: Path) -> None:
    profile = ICC + np.random.default_rng(3).integers(0, 256, 3 << 20).astype(np.uint8).tobytes()
    chunk = b"ICC Profile\0\0" + zlib.compress(profile)
    (tmp_path / "a.png").write_bytes(with_chunk(imagecodecs.png_encode(noise(4, 5, 3)), b"iCCP", chunk))
    picture = read_image(tmp_path / "a.png")
    np.testing.assert_array_equal(levels(picture), noise(4, 5, 3))
    assert picture.metadata.icc == profile


@pytest.mark.parametrize("name", [b"tEXt", b"zTXt", b"iTXt", b"gAMA", b"cHRM", b"prVt"])
def test_what_lies_beside_a_png_is_never_what_costs_it(tmp_path: Path, name: bytes) -> None:
    damaged = bytearray(with_chunk(imagecodecs.png_encode(noise(4, 5, 3)), name, b"parameters\0" + bytes(3 << 20)))
    damaged[41] ^= 1  # the checksum is wrong
    (tmp_path / "a.png").write_bytes(damaged)
    np.testing.assert_array_equal(levels(read_image(tmp_path / "a.png")), noise(4, 5, 3))


def test_orientation_in_xmp_or_in_imagemagicks_text_is_applied(tmp_path: Path) -> None:
    png = imagecodecs.png_encode(noise(4, 6, 3))
    xmp = b"XML:com.adobe.xmp\0\0\0\0\0<x tiff:Orientation='6' tiff:Orientation=\"6\"/>"
    (tmp_path / "a.png").write_bytes(with_chunk(png, b"iTXt", xmp))
    assert read_image(tmp_path / "a.png").pixels.shape == (6, 4, 3)
    block = exif(orientation=6)
    text = f"Raw profile type exif\0\nexif\n{len(block)}\n{block.hex()}\n".encode()
    (tmp_path / "a.png").write_bytes(with_chunk(png, b"tEXt", text))
    assert read_image(tmp_path / "a.png").pixels.shape == (6, 4, 3)


@pytest.mark.parametrize("content", [b"", b"hello, I am a text", b"<svg/>", b"\x89PNG\r\n\x1a\n", b"II*\0"])
def test_what_is_no_picture_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(BadImageError, match=r"a\.png"):
        read_image(tmp_path / "a.png")


def test_formats_that_are_not_supported_are_refused(tmp_path: Path) -> None:
    Image.fromarray(noise(4, 5)).save(tmp_path / "a.png", format="PPM")
    with pytest.raises(BadImageError, match=r"a\.png: is no picture of a kind that is read \(PNG, JPEG, WebP, TIFF"):
        read_image(tmp_path / "a.png")


def test_missing_files_and_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(BadImageError, match=r"absent\.png.*No such file"):
        read_image(tmp_path / "absent.png")
    with pytest.raises(BadImageError, match="is a folder, not a picture file"):
        read_image(tmp_path)


@pytest.mark.parametrize("bits", [8, 16])
def test_a_picture_without_pixels_is_refused(tmp_path: Path, bits: int) -> None:
    png = imagecodecs.png_encode(noise(1, 1, 3, bits=bits))
    header = struct.pack(">II", 0, 1) + png[24:29]
    png = png[:16] + header + struct.pack(">I", zlib.crc32(b"IHDR" + header)) + png[33:]
    (tmp_path / "a.png").write_bytes(png)
    with pytest.raises(BadImageError, match=r"a\.png"):
        read_image(tmp_path / "a.png")


def test_damaged_exif_does_not_cost_the_picture(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(with_chunk(imagecodecs.png_encode(noise(4, 5, 3)), b"eXIf", b"rubbish"))
    picture = read_image(tmp_path / "a.png")
    np.testing.assert_array_equal(levels(picture), noise(4, 5, 3))
    assert "EXIF" in picture.warnings[0]


@pytest.mark.parametrize("name", ["a.bmp", "a.jp2", "a"])
def test_unknown_output_formats_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(BadImageError, match=r"use \.png"):
        write_image(tmp_path / name, Picture(smooth(3)))


def test_pictures_too_large_for_a_format_are_refused_before_the_work(tmp_path: Path) -> None:
    check_fits(tmp_path / "a.webp", 16383, 5)
    check_fits(tmp_path / "a.png", 100_000, 5)
    with pytest.raises(BadImageError, match=r"16384x5.*\.png"):
        check_fits(tmp_path / "a.webp", 16384, 5)
    with pytest.raises(BadImageError, match=r"5x16384"):
        write_image(tmp_path / "a.webp", Picture(np.zeros((16384, 5, 1), np.float32)))


def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"old")
    really_open = Path.open

    def open_on_a_full_disk(self: Path, *args: str):
        file = really_open(self, *args, buffering=0)

        class Full:
            def __enter__(self):
                return self

            def __exit__(self, *error: object) -> None:
                file.close()

            def write(self, data: bytes) -> None:
                file.write(data[:10])
                raise OSError(errno.ENOSPC, "No space left on device")

        return Full()

    monkeypatch.setattr(Path, "open", open_on_a_full_disk)
    with pytest.raises(OutputError, match=r"a\.png: cannot be written: No space left on device"):
        write_image(path, Picture(smooth(3)))
    monkeypatch.undo()
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.png"]
    assert path.read_bytes() == b"old"


def test_a_write_that_the_system_stops_halfway_leaves_nothing(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource", reason="this system has no limits on file sizes")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(OutputError, match=r"a\.tif: cannot be written: File too large"):
            write_image(tmp_path / "a.tif", Picture(noise(64, 64, 3) / np.float32(255), bits=16))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == []


def test_an_unwritable_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OutputError, match=r"cannot be written: Not a directory"):
        write_image(tmp_path / "file" / "a.png", Picture(smooth(3)))
    (tmp_path / "a.png").mkdir()
    with pytest.raises(OutputError, match=r"a\.png: cannot be written"):
        write_image(tmp_path / "a.png", Picture(smooth(3)))
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["a.png", "file"]


@pytest.mark.parametrize("bits", [8, 16])
def test_writing_takes_no_second_copy_of_the_floats(bits: int) -> None:
    """Where memory is limited, a picture that could be computed must be written, too."""
    picture = Picture(np.random.default_rng(0).random((2000, 1500, 3), dtype=np.float32) * 1.1 - 0.05, bits=bits)
    tracemalloc.start()
    try:
        made = codec.levels(picture, bits)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < made.nbytes + 16e6 < picture.pixels.nbytes + made.nbytes
    expected = np.rint(np.clip(picture.pixels, 0, 1) * (2**bits - 1))
    assert np.array_equal(made, expected.astype(made.dtype))
