"""What a picture carries: kept in every format that has a place for it, named in a warning where one has none.

What is written is looked at with other readers: Pillow, tifffile, and for chunks the bytes themselves.
"""

import json
import struct
import zlib
from collections.abc import Callable
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms, ImageOps, PngImagePlugin, TiffImagePlugin, TiffTags

from cudaspeed.images.codecs import png_chunks
from cudaspeed.images.codecs.metadata import Metadata
from cudaspeed.images.codecs.picture import Picture
from cudaspeed.images.files import read_image, write_image

ICC = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
MAKE, ORIENTATION, COPYRIGHT, PHOTO, GPS = 0x010F, 0x0112, 0x8298, 0x8769, 0x8825
DATE, WIDTH, USER_COMMENT = 0x9003, 0xA002, 0x9286
PARAMETERS = "a cat, ünï\nNegative prompt: dog\nSteps: 20, Sampler: Euler a"
WORKFLOW = json.dumps({"nodes": ["猫", 1]})
XMP = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    b'<rdf:Description rdf:about="" xmlns:t="http://ns.adobe.com/tiff/1.0/" xmlns:dc="http://purl.org/dc/elements/1.1/"'
    b' t:ImageWidth="32" dc:format="J\xc3\xbc">%s</rdf:Description></rdf:RDF></x:xmpmeta>'
)
TARGETS = ["8.png", "16.png", "jpg", "webp", "tif", "gif"]

pixels = np.random.default_rng(5).integers(0, 256, (12, 16, 3), np.uint8)


def an_exif(orientation: int = 1) -> Image.Exif:
    block = Image.Exif()
    block[MAKE] = "Maker"
    block[ORIENTATION] = orientation
    block[COPYRIGHT] = "me"
    block.get_ifd(PHOTO)[DATE] = "2020:01:02 03:04:05"
    block.get_ifd(PHOTO)[WIDTH] = 16
    block.get_ifd(GPS)[1] = "N"
    return block


def with_chunks(data: bytes, *chunks: tuple[bytes, bytes]) -> bytes:
    made = b"".join(
        struct.pack(">I", len(payload)) + name + payload + struct.pack(">I", zlib.crc32(name + payload))
        for name, payload in chunks
    )
    return data[:33] + made + data[33:]


def encoded(format_name: str, samples: np.ndarray = pixels, **settings: object) -> bytes:
    buffer = BytesIO()
    Image.fromarray(samples).save(buffer, format_name, **settings)
    return buffer.getvalue()


def a_png(*chunks: tuple[bytes, bytes], bits: int = 8, **settings: object) -> bytes:
    data = encoded("PNG", **settings) if bits == 8 else imagecodecs.png_encode(pixels.astype(np.uint16) * 257)
    return with_chunks(bytes(data), *chunks)


def read(tmp_path: Path, data: bytes) -> Picture:
    (tmp_path / "in").write_bytes(data)
    return read_image(tmp_path / "in")


def written(tmp_path: Path, picture: Picture, kind: str) -> tuple[Path, tuple[str, ...]]:
    """As one of `TARGETS`, and the warnings but for those about samples."""
    bits, path = (16 if kind == "16.png" else 8), tmp_path / f"out.{kind.split('.')[-1]}"
    lost = write_image(path, replace(picture, bits=bits))
    return path, tuple(warning for warning in lost if "dithered" not in warning)


def chunks_of(path: Path) -> list[tuple[bytes, bytes]]:
    return [(chunk.name, bytes(chunk.payload)) for chunk in png_chunks.chunks(path.read_bytes()) if chunk.sound]


SOURCES: dict[str, Callable[[], bytes]] = {
    "png": lambda: a_png(exif=an_exif(), icc_profile=ICC, dpi=(300, 150)),
    "16-bit png": lambda: a_png(
        (b"eXIf", an_exif().tobytes()[6:]),
        (b"iCCP", b"any\0\0" + zlib.compress(ICC)),
        (b"pHYs", struct.pack(">IIB", 11811, 5906, 1)),
        bits=16,
    ),
    "jpeg": lambda: encoded("JPEG", exif=an_exif(), icc_profile=ICC, dpi=(300, 150)),
    "webp": lambda: encoded("WEBP", exif=with_resolution(an_exif()), icc_profile=ICC),
    "tiff": lambda: encoded("TIFF", tiffinfo=an_exif_in_tags(), icc_profile=ICC),
    "16-bit tiff": lambda: a_16_bit_tiff(),
}


def with_resolution(block: Image.Exif) -> Image.Exif:
    block[0x011A], block[0x011B], block[0x0128] = 300.0, 150.0, 2
    return block


def an_exif_in_tags() -> TiffImagePlugin.ImageFileDirectory_v2:
    """As Pillow has it for a TIFF."""
    block, tags = with_resolution(an_exif()), TiffImagePlugin.ImageFileDirectory_v2()
    for tag in (MAKE, COPYRIGHT, 0x011A, 0x011B, 0x0128):
        tags[tag] = block[tag]
    for tag in (PHOTO, GPS):
        tags.tagtype[tag] = TiffTags.LONG
        tags[tag] = block.get_ifd(tag)
    return tags


def a_16_bit_tiff() -> bytes:
    """With what Pillow has put into one of 8 bits."""
    buffer = BytesIO()
    tags = [(MAKE, 2, 0, "Maker", True), (COPYRIGHT, 2, 0, "me", True)]
    samples = pixels.astype(np.uint16) * 257
    tifffile.imwrite(
        buffer, samples, photometric="rgb", iccprofile=ICC, resolution=(300, 150), resolutionunit=2, extratags=tags,
        metadata=None,
    )  # fmt: skip
    return buffer.getvalue()


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("target", [kind for kind in TARGETS if kind != "gif"])
def test_profile_exif_and_resolution_go_from_every_format_into_every_format(
    tmp_path: Path, source: str, target: str
) -> None:
    picture = read(tmp_path, SOURCES[source]())
    assert picture.warnings == ()
    path, lost = written(tmp_path, picture, target)
    assert lost == ()
    with Image.open(path) as image:
        block = image.getexif()
        assert image.info["icc_profile"] == ICC
        assert (block[MAKE], block[COPYRIGHT], ORIENTATION in block) == ("Maker", "me", False)
        if source != "16-bit tiff":
            assert block.get_ifd(PHOTO) == {DATE: "2020:01:02 03:04:05"}
            assert block.get_ifd(GPS) == {1: "N"}
        across, down = image.info.get("dpi") or (block[0x011A], block[0x011B])
    assert (float(across), float(down)) == pytest.approx((300, 150), abs=0.02)  # a PNG counts pixels a metre


def test_a_gif_keeps_the_profile_and_names_what_it_cannot(tmp_path: Path) -> None:
    picture = read(tmp_path, a_png(exif=an_exif(), icc_profile=ICC, dpi=(300, 150)))
    path, lost = written(tmp_path, picture, "gif")
    assert [word for word in ("EXIF", "dpi") if any(word in warning for warning in lost)] == ["EXIF", "dpi"]
    assert read_image(path).metadata == Metadata(icc=ICC)


@pytest.mark.parametrize("bits", [8, 16])
def test_texts_of_a_png_stay_as_they_are_byte_for_byte(tmp_path: Path, bits: int) -> None:
    texts = [
        (b"tEXt", b"parameters\0a cat\nSteps: 20"),
        (b"iTXt", b"prompt\0\0\0de\0Aufforderung\0" + WORKFLOW.encode()),
        (b"iTXt", b"workflow\0\1\0\0\0" + zlib.compress(WORKFLOW.encode(), 1)),
        (b"zTXt", b"Odd\0\0" + zlib.compress(b"x" * 5000, 9)),
        (b"tEXt", b"Latin\0gr\xfc\xdfe"),
        (b"iTXt", b"Broken\0\0\0\0\0\xff\xfe"),
        (b"zTXt", b"Broken\0\0no deflate stream"),
        (b"tEXt", b"Odd\0a keyword may come again"),
    ]
    picture = read(tmp_path, a_png(*texts))
    path, lost = written(tmp_path, picture, f"{bits}.png")
    assert picture.warnings + lost == ()
    assert [chunk for chunk in chunks_of(path) if chunk[0] in (b"tEXt", b"zTXt", b"iTXt")] == texts
    with Image.open(path) as image:
        image.load()


@pytest.mark.parametrize("target", ["jpg", "webp", "tif"])
def test_generation_data_go_where_the_programs_that_made_them_look(tmp_path: Path, target: str) -> None:
    info = PngImagePlugin.PngInfo()
    for keyword, text in (("parameters", PARAMETERS), ("prompt", '{"1": {}}'), ("workflow", WORKFLOW), ("Title", "t")):
        info.add_text(keyword, text)
    picture = read(tmp_path, a_png(pnginfo=info))
    path, lost = written(tmp_path, picture, target)
    (warning,) = lost
    assert "Title" in warning
    assert not {word for word in ("parameters", "prompt", "workflow") if word in warning}
    with Image.open(path) as image:
        block = image.getexif()
        comment = block.get_ifd(PHOTO)[USER_COMMENT]
        assert comment == b"UNICODE\0" + PARAMETERS.encode("utf-16-be")
        assert block[0x0110] == 'prompt:{"1": {}}'
        assert block[MAKE] == "workflow:" + WORKFLOW


def test_generation_data_that_are_not_ascii_stay_utf_8(tmp_path: Path) -> None:
    workflow = '{"a": "猫"}'
    picture = read(tmp_path, a_png((b"iTXt", b"workflow\0\0\0\0\0" + workflow.encode())))
    path, lost = written(tmp_path, picture, "webp")
    assert lost == ()
    assert f"workflow:{workflow}\0".encode() in path.read_bytes()


def test_a_workflow_too_long_for_a_jpeg_is_named(tmp_path: Path) -> None:
    long = "".join(map(str, range(30_000)))
    picture = read(tmp_path, a_png((b"tEXt", b"workflow\0" + long.encode()), (b"tEXt", b"parameters\0a cat")))
    path, (warning,) = written(tmp_path, picture, "jpg")
    assert "workflow" in warning
    assert "parameters" not in warning
    with Image.open(path) as image:
        assert image.getexif().get_ifd(PHOTO)[USER_COMMENT] == b"UNICODE\0" + "a cat".encode("utf-16-be")


@pytest.mark.parametrize("comment", [b"plain", "grüße".encode(), b"gr\xfc\xdfe", b"ends with\0"])
def test_comments_go_from_jpeg_to_png_and_back(tmp_path: Path, comment: bytes) -> None:
    source = encoded("JPEG", comment=comment)
    path, lost = written(tmp_path, read(tmp_path, source), "8.png")
    assert lost == ()
    with Image.open(path) as image:
        image.load()
        told = image.text["Comment"]
    assert told.rstrip("\0") == (comment.decode("latin-1") if b"\xfc" in comment else comment.decode()).rstrip("\0")
    path, lost = written(tmp_path, read_image(path), "jpg")
    assert lost == ()
    with Image.open(path) as image:
        assert image.info["comment"] == comment.rstrip(b"\0")


@pytest.mark.parametrize("target", TARGETS)
def test_a_comment_is_kept_by_every_format(tmp_path: Path, target: str) -> None:
    path, lost = written(tmp_path, read(tmp_path, encoded("GIF", comment=b"told")), target)
    assert lost == ()
    data = path.read_bytes()
    assert b"told" in data or "told".encode("utf-16-be") in data


@pytest.mark.parametrize("target", TARGETS)
def test_xmp_is_kept_by_every_format(tmp_path: Path, target: str) -> None:
    packet = XMP % b""
    for source in (
        a_png((b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + packet)),
        a_png((b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(packet))),
        a_png((b"zTXt", b"Raw profile type xmp\0\0" + zlib.compress(raw_profile("xmp", packet)))),
        encoded("JPEG", xmp=packet),
        encoded("WEBP", xmp=packet),
        encoded("TIFF", tiffinfo={700: packet}),
    ):
        picture = read(tmp_path, source)
        path, lost = written(tmp_path, picture, target)
        assert picture.warnings + lost == ()
        with Image.open(path) as image:
            image.load()
            told = image.info.get("xmp") or image.info.get("XML:com.adobe.xmp", "").encode() or path.read_bytes()
        assert packet.replace(b' t:ImageWidth="32"', b"") in told


def raw_profile(name: str, block: bytes) -> bytes:
    """As ImageMagick puts it into a text."""
    digits = block.hex()
    lines = "\n".join(digits[start : start + 72] for start in range(0, len(digits), 72))
    return f"\n{name}\n{len(block):8}\n{lines}\n".encode()


@pytest.mark.parametrize("form", [b' t:Orientation="6"', b"<t:Orientation>6</t:Orientation>"])
@pytest.mark.parametrize("also_in_exif", [False, True])
@pytest.mark.parametrize("target", ["8.png", "jpg", "webp", "tif"])
def test_a_picture_is_turned_once(tmp_path: Path, form: bytes, also_in_exif: bool, target: str) -> None:
    packet = XMP % form if form[:1] == b"<" else (XMP % b"").replace(b' t:ImageWidth="32"', form)
    settings = {"exif": an_exif(orientation=6)} if also_in_exif else {}
    picture = read(tmp_path, encoded("JPEG", xmp=packet, **settings))
    assert picture.pixels.shape == (16, 12, 3)
    path, _ = written(tmp_path, picture, target)
    with Image.open(path) as image:
        image.load()
        assert ImageOps.exif_transpose(image).size == image.size == (12, 16)
    assert b"t:Orientation" not in path.read_bytes()


def test_exif_that_imagemagick_put_into_a_text_becomes_exif(tmp_path: Path) -> None:
    text = raw_profile("exif", an_exif(orientation=6).tobytes())
    picture = read(tmp_path, a_png((b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(text))))
    assert picture.pixels.shape == (16, 12, 3)
    path, lost = written(tmp_path, picture, "8.png")
    assert picture.warnings + lost == ()
    assert b"Raw profile" not in path.read_bytes()
    with Image.open(path) as image:
        assert (image.getexif()[MAKE], ORIENTATION in image.getexif()) == ("Maker", False)


def test_thumbnails_and_sizes_of_the_old_pixels_go(tmp_path: Path) -> None:
    thumbnail = encoded("JPEG", pixels[:4, :4])
    plain = an_exif().tobytes()
    # a second directory behind the first, which Pillow reads but does not write
    first = bytearray(plain[6:])
    (count,) = struct.unpack_from(">H", first, 8)
    struct.pack_into(">I", first, 10 + 12 * count, len(first))
    second = struct.pack(">HHHIIHHIII", 2, 0x0201, 4, 1, len(first) + 30, 0x0202, 4, 1, len(thumbnail), 0)
    block = b"Exif\0\0" + bytes(first) + second + thumbnail
    packet = XMP % b'<i:Thumbnails xmlns:i="http://ns.adobe.com/xap/1.0/">/9j/4AAQ</i:Thumbnails>'
    picture = read(tmp_path, encoded("JPEG", exif=block, xmp=packet))
    path, _ = written(tmp_path, picture, "jpg")
    data = path.read_bytes()
    assert data.count(b"\xff\xd8\xff") == 1
    assert b"Thumbnails" not in data
    assert b"ImageWidth" not in data
    with Image.open(path) as image:
        assert image.getexif().get_ifd(PHOTO) == {DATE: "2020:01:02 03:04:05"}


def test_resolutions_that_differ_are_turned_with_the_picture(tmp_path: Path) -> None:
    picture = read(tmp_path, encoded("JPEG", exif=an_exif(orientation=6), dpi=(300, 150)))
    path, _ = written(tmp_path, picture, "8.png")
    with Image.open(path) as image:
        assert image.info["dpi"] == pytest.approx((150, 300), abs=0.02)


def test_the_shape_of_pixels_is_kept_or_named(tmp_path: Path) -> None:
    shape = (b"pHYs", struct.pack(">IIB", 2, 1, 0))
    picture = read(tmp_path, a_png(shape))
    assert shape in chunks_of(written(tmp_path, picture, "8.png")[0])
    _, (warning,) = written(tmp_path, picture, "tif")
    assert "pHYs" in warning


def test_a_profile_of_more_than_a_megabyte_is_kept(tmp_path: Path) -> None:
    large = ICC + np.random.default_rng(1).bytes(3 << 20)
    for source in (encoded("JPEG", icc_profile=large), encoded("WEBP", icc_profile=large)):
        picture = read(tmp_path, source)
        for target in TARGETS:
            path, lost = written(tmp_path, picture, target)
            assert lost == ()
            if target.endswith("png"):
                (payload,) = [payload for name, payload in chunks_of(path) if name == b"iCCP"]
                assert zlib.decompress(payload.split(b"\0\0", 1)[1]) == large
            else:
                assert read_image(path).metadata.icc == large


GAMMA, CHROMATICITIES = b"gAMA", b"cHRM"
SRGB_XY = (31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000)
P3_XY = (31270, 32900, 68000, 32000, 26500, 69000, 15000, 6000)


@pytest.mark.parametrize("bits", [8, 16])
def test_colours_told_in_numbers_stay_so_in_a_png(tmp_path: Path, bits: int) -> None:
    colours = [
        (b"cICP", bytes([9, 16, 0, 1])),
        (b"mDCV", bytes(24)),
        (b"cLLI", bytes(8)),
        (GAMMA, struct.pack(">I", 100_000)),
        (CHROMATICITIES, struct.pack(">8I", *P3_XY)),
        (b"sRGB", b"\0"),
    ]
    picture = read(tmp_path, a_png(*colours))
    path, lost = written(tmp_path, picture, f"{bits}.png")
    assert picture.warnings + lost == ()
    assert [chunk for chunk in chunks_of(path) if chunk[0] in dict(colours)] == colours


@pytest.mark.parametrize("target", ["jpg", "webp", "tif", "gif"])
@pytest.mark.parametrize(
    ("colours", "gamma", "xy"),
    [
        ([(GAMMA, struct.pack(">I", 100_000))], 1.0, SRGB_XY),
        ([(GAMMA, struct.pack(">I", 55_556)), (CHROMATICITIES, struct.pack(">8I", *P3_XY))], 1.8, P3_XY),
        ([(CHROMATICITIES, struct.pack(">8I", *P3_XY))], None, P3_XY),
        ([(b"cICP", bytes([12, 13, 0, 1]))], None, P3_XY),
        ([(b"cICP", bytes([1, 4, 0, 1]))], 2.2, SRGB_XY),
    ],
    ids=["linear", "gamma and primaries", "primaries", "Display P3", "2.2"],
)
def test_colours_told_in_numbers_become_a_profile_elsewhere(
    tmp_path: Path, target: str, colours: list[tuple[bytes, bytes]], gamma: float | None, xy: tuple[int, ...]
) -> None:
    picture = read(tmp_path, a_png(*colours))
    path, lost = written(tmp_path, picture, target)
    assert lost == ()
    icc = read_image(path).metadata.icc
    assert icc is not None
    given = np.array([[[40, 90, 160], [200, 180, 30], [128, 128, 128], [255, 255, 255]]], np.uint8)
    shown = ImageCms.profileToProfile(
        Image.fromarray(given), ImageCms.ImageCmsProfile(BytesIO(icc)), ImageCms.createProfile("sRGB")
    )
    wanted = as_srgb(given / 255, gamma, np.array(xy) / 100_000)
    np.testing.assert_allclose(np.asarray(shown) / 255, wanted, atol=2.5 / 255)


def as_srgb(values: np.ndarray, gamma: float | None, xy: np.ndarray) -> np.ndarray:
    """Colours of the same white, in sRGB: IEC 61966-2-1."""
    light = values**gamma if gamma else np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    matrix = np.linalg.solve(to_xyz(np.array(SRGB_XY) / 100_000), to_xyz(xy))
    light = np.clip(light @ matrix.T, 0, 1)
    return np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055)


def to_xyz(xy: np.ndarray) -> np.ndarray:
    points = np.array([[x / y, 1, (1 - x - y) / y] for x, y in xy.reshape(4, 2)])
    columns = points[1:].T
    return columns * np.linalg.solve(columns, points[0])


@pytest.mark.parametrize("target", ["jpg", "tif"])
def test_a_grey_picture_gets_a_grey_profile(tmp_path: Path, target: str) -> None:
    grey = with_chunks(encoded("PNG", pixels[..., 0]), (GAMMA, struct.pack(">I", 100_000)))
    path, lost = written(tmp_path, read(tmp_path, grey), target)
    assert lost == ()
    icc = read_image(path).metadata.icc
    assert icc is not None
    shown = ImageCms.profileToProfile(
        Image.new("L", (1, 1), 64),
        ImageCms.ImageCmsProfile(BytesIO(icc)),
        ImageCms.createProfile("sRGB"),
        outputMode="RGB",
    )
    light = 64 / 255
    np.testing.assert_allclose(np.asarray(shown) / 255, 1.055 * light ** (1 / 2.4) - 0.055, atol=2 / 255)


@pytest.mark.parametrize("target", ["jpg", "webp", "tif", "gif"])
@pytest.mark.parametrize(
    "colours",
    [
        [(b"sRGB", b"\0"), (GAMMA, struct.pack(">I", 45455)), (CHROMATICITIES, struct.pack(">8I", *SRGB_XY))],
        [(GAMMA, struct.pack(">I", 45455))],
        [(b"cICP", bytes([1, 13, 0, 1]))],
    ],
    ids=["all", "gamma", "cICP"],
)
def test_srgb_is_what_pictures_are_taken_for(tmp_path: Path, target: str, colours: list[tuple[bytes, bytes]]) -> None:
    path, lost = written(tmp_path, read(tmp_path, a_png(*colours)), target)
    assert lost == ()
    assert read_image(path).metadata.icc is None


@pytest.mark.parametrize("target", ["jpg", "webp", "tif", "gif"])
@pytest.mark.parametrize(
    ("chunk", "told"),
    [
        ((b"cICP", bytes([9, 16, 0, 1])), "HDR"),
        ((b"cICP", bytes([9, 18, 0, 1])), "HDR"),
        ((b"cLLI", bytes(8)), "HDR"),
        ((b"cICP", bytes([2, 2, 0, 1])), "cICP"),
        ((b"cICP", b"short"), "cICP"),
        ((CHROMATICITIES, bytes(32)), "cHRM"),
        ((CHROMATICITIES, struct.pack(">8I", *[30_000] * 8)), "cHRM"),
        ((CHROMATICITIES, struct.pack(">8I", *[1] * 8)), "cHRM"),
        ((CHROMATICITIES, struct.pack(">8I", *[2**32 - 1] * 8)), "cHRM"),
        ((GAMMA, bytes(4)), "gAMA"),
        ((GAMMA, b"?"), "gAMA"),
    ],
)
def test_colours_that_no_profile_can_tell_are_named(
    tmp_path: Path, target: str, chunk: tuple[bytes, bytes], told: str
) -> None:
    path, (warning,) = written(tmp_path, read(tmp_path, a_png(chunk)), target)
    assert told in warning
    assert "colours may differ" in warning
    assert read_image(path).metadata.icc is None


def test_chunks_that_may_be_copied_are_and_others_are_named(tmp_path: Path) -> None:
    picture = read(tmp_path, a_png((b"prVt", b"safe"), (b"prVT", b"bound to the pixels"), (b"tIME", bytes(7))))
    (warning,) = picture.warnings
    assert "prVT" in warning
    assert "tIME" not in warning
    path, lost = written(tmp_path, picture, "8.png")
    assert lost == ()
    assert (b"prVt", b"safe") in chunks_of(path)
    _, (warning,) = written(tmp_path, picture, "jpg")
    assert "prVt" in warning


def test_a_bmp_keeps_its_resolution_and_profile(tmp_path: Path) -> None:
    plain = encoded("BMP", dpi=(300, 150))
    assert read(tmp_path, plain).metadata.resolution == pytest.approx((300, 150), abs=0.02)
    header = bytearray(plain[14:54].ljust(124, b"\0"))
    header[:4] = struct.pack("<I", 124)
    header[56:60] = b"DEBM"
    body = plain[54:]
    header[112:120] = struct.pack("<II", 124 + len(body), len(ICC))
    file = b"BM" + struct.pack("<IHHI", 14 + 124 + len(body) + len(ICC), 0, 0, 14 + 124)
    picture = read(tmp_path, file + bytes(header) + body + ICC)
    assert picture.metadata.icc == ICC
    np.testing.assert_array_equal(np.rint(picture.pixels * 255), pixels)


def test_tags_of_a_tiff_are_kept_but_for_those_of_its_layout(tmp_path: Path) -> None:
    buffer = BytesIO()
    tags = [(0x013B, 2, 0, "Artist", True), (33550, 12, 3, (1.0, 1.0, 0.0), True)]
    tifffile.imwrite(buffer, pixels, photometric="rgb", description="a boat", extratags=tags, metadata=None)
    picture = read(tmp_path, buffer.getvalue())
    (warning,) = picture.warnings
    assert "33550" in warning  # a place on earth, told in pixels
    for target in ("8.png", "jpg", "webp", "tif"):
        path, lost = written(tmp_path, picture, target)
        assert lost == ()
        with Image.open(path) as image:
            assert (image.getexif()[0x010E], image.getexif()[0x013B]) == ("a boat", "Artist")


def test_a_description_of_shapes_does_not_outlive_the_shape(tmp_path: Path) -> None:
    buffer = BytesIO()
    tifffile.imwrite(buffer, pixels, photometric="rgb")
    path, _ = written(tmp_path, read(tmp_path, buffer.getvalue()), "tif")
    assert b"shape" not in path.read_bytes()


def test_of_two_descriptions_the_first_is_kept(tmp_path: Path) -> None:
    """tifffile writes one of its own behind the user's."""
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((4, 5, 3), np.uint8), photometric="rgb", description="a boat")
    write_image(tmp_path / "b.tif", read_image(tmp_path / "a.tif"))
    with tifffile.TiffFile(tmp_path / "b.tif") as file:
        assert file.pages[0].tags["ImageDescription"].value == "a boat"


@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("bigtiff", [False, True])
def test_a_tiff_of_either_order_keeps_numbers(tmp_path: Path, byteorder: str, bigtiff: bool) -> None:
    buffer = BytesIO()
    tifffile.imwrite(
        buffer, pixels, photometric="rgb", resolution=(300, 150), resolutionunit=2, metadata=None, byteorder=byteorder,
        bigtiff=bigtiff, description="a boat", software=False,
    )  # fmt: skip
    path, lost = written(tmp_path, read(tmp_path, buffer.getvalue()), "tif")
    assert lost == ()
    with tifffile.TiffFile(path) as file:
        tags = file.pages.first.tags
        assert (tags["XResolution"].value, tags["YResolution"].value) == ((300, 1), (150, 1))
        assert tags["ImageDescription"].value == "a boat"
        np.testing.assert_array_equal(file.pages.first.asarray(), pixels)


def test_iptc_data_are_named(tmp_path: Path) -> None:
    segment = b"Photoshop 3.0\x008BIM\x04\x04\0\0\0\0\0\x04abcd"
    data = encoded("JPEG")
    data = data[:20] + struct.pack(">BBH", 0xFF, 0xED, len(segment) + 2) + segment + data[20:]
    assert any("IPTC" in warning for warning in read(tmp_path, data).warnings)
