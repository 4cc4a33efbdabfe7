"""Picture files and float arrays: read one into `Picture`, write one back, whole or not at all."""

from __future__ import annotations

import math
import struct
import uuid
import warnings
import zlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..api.errors import BadImageError, OutputError

READABLE_ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp")
WRITABLE_ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff")
ENDINGS_OF_16_BITS = (".png", ".tif", ".tiff")  # the formats that keep them
LONGEST_SIDE = {".jpg": 65500, ".jpeg": 65500, ".webp": 16383}  # pixels; limits of libjpeg and of the WebP format

_PILLOW_FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP")  # nothing else is tried: fewer decoders meet unknown bytes
_PLAIN_MODE = {
    "1": "L", "L": "L", "LA": "LA", "La": "LA", "P": "RGB", "PA": "RGBA", "RGB": "RGB", "RGBX": "RGB",
    "RGBA": "RGBA", "RGBa": "RGBA", "CMYK": "RGB", "YCbCr": "RGB",
}  # fmt: skip
_WITH_ALPHA = {"L": "LA", "RGB": "RGBA", "LA": "LA", "RGBA": "RGBA"}

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_TAIL = 1 << 16  # bytes; some programs append a little after the end
_PNG_HEADER_END = 33  # signature, then the IHDR chunk: length, name, 13 bytes, checksum
_TIFF_SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # little and big endian, then BigTIFF
_TIFF_UNASSOCIATED_ALPHA, _TIFF_ASSOCIATED_ALPHA = 2, 1
_TIFF_WHITE_IS_ZERO, _TIFF_BLACK_IS_ZERO, _TIFF_RGB = 0, 1, 2
_TIFF_COLOURS = {_TIFF_WHITE_IS_ZERO: 1, _TIFF_BLACK_IS_ZERO: 1, _TIFF_RGB: 3}  # channels without alpha
_TIFF_ORIENTATION = 274

_EXIF_ORIENTATION, _EXIF_SUB_IFD = 0x0112, 0x8769
_EXIF_SIZES = (0xA002, 0xA003)  # PixelXDimension, PixelYDimension
_ICC_COLOUR_SPACE = slice(16, 20)  # of a profile's header
_EXIF_LIMIT_IN_JPEG = 65533  # bytes; one APP1 segment


@dataclass(frozen=True)
class Picture:
    """One picture, upright.

    `pixels` is float32 [H, W, C] in 0..1; C = 1, 2, 3, 4 means grey, grey and alpha (not premultiplied), RGB, RGBA.
    `bits` (8 or 16) is the depth per sample of the file it came from. `icc` is its colour profile. `exif` is a block
    beginning with b"Exif", without orientation and sizes, which the pixels tell better. `warnings` say what was lost.
    """

    pixels: NDArray[np.float32]
    bits: int = 8
    icc: bytes | None = None
    exif: bytes | None = None
    warnings: tuple[str, ...] = ()


def read_image(path: Path) -> Picture:
    """Read an 8- or 16-bit PNG or TIFF, or a JPEG, WebP or BMP; the content decides, not the ending.

    Orientation is applied; palettes, bilevel and CMYK pictures become grey or RGB, with alpha where they have
    transparency; of an animation or a multi-page file only the first picture is read. A TIFF's EXIF is not read.
    Raises `BadImageError` if the file is unreadable, no such picture, cut short, too large to be safe (Pillow's
    limit for decompression bombs), without pixels, or holds samples other than 8- or 16-bit integers.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise BadImageError(f"{path}: cannot be read: {error.strerror or error}") from error
    if not data:
        raise BadImageError(f"{path}: the file is empty; copy or export it again")
    try:
        return _read_tiff(data) if data.startswith(_TIFF_SIGNATURES) else _read_with_pillow(data)
    except BadImageError as error:
        raise BadImageError(f"{path}: {error}") from error
    except MemoryError:
        raise
    except ImportError as error:
        raise BadImageError(f"{path}: {error.name} is needed to read it; pip install imagecodecs tifffile") from error
    except Exception as error:  # on broken bytes decoders raise all sorts: SyntaxError, struct.error, ...
        raise BadImageError(
            f"{path}: the picture is damaged or cut short; copy or export it again ({type(error).__name__}: {error})"
        ) from error


def check_fits(path: Path, width: int, height: int) -> None:
    """Raise `BadImageError` if the format that `path` ends with cannot hold `width` x `height` pixels."""
    limit = LONGEST_SIDE.get(path.suffix.lower())
    if limit is not None and max(width, height) > limit:
        raise BadImageError(
            f"{path}: {width}x{height} pixels do not fit a {path.suffix} file, whose sides end at {limit}; "
            "write a .png or .tif file instead"
        )


def write_image(path: Path, picture: Picture) -> tuple[str, ...]:
    """Write `picture` in the format that `path` ends with and return warnings about what that format cannot hold.

    Values are rounded to the nearest 8- or 16-bit level (PNG and TIFF keep 16 bits), values outside 0..1 are clipped.
    PNG and TIFF are lossless; JPEG has quality 95 without chroma subsampling, WebP is lossy at quality 95. JPEG loses
    alpha, TIFF loses EXIF. The file appears complete or not at all, and replaces one that is there.
    Raises `BadImageError` if the format is unknown or too small for the picture, `OutputError` if writing fails.
    """
    ending = path.suffix.lower()
    if ending not in _ENCODERS:
        raise BadImageError(f"{path}: cannot write {ending or 'a file without ending'}; use {', '.join(_ENCODERS)}")
    height, width = picture.pixels.shape[:2]
    check_fits(path, width, height)
    try:
        data, lost = _ENCODERS[ending](picture)
    except ImportError as error:
        raise OutputError(f"{path}: {error.name} is needed to write it; pip install imagecodecs tifffile") from error
    _write_whole(path, data)
    return lost


def _read_with_pillow(data: bytes) -> Picture:
    notes: list[str] = []
    if data.startswith(_PNG_SIGNATURE):
        _check_png_is_whole(data)
    # Scoped: what Pillow warns of belongs to this picture. Large pictures are our trade, so that one is not passed on.
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        try:
            image = Image.open(BytesIO(data), formats=_PILLOW_FORMATS)
        except Image.UnidentifiedImageError:
            raise BadImageError("is not a PNG, JPEG, WebP, TIFF or BMP picture, or its header is damaged") from None
        except Image.DecompressionBombError as error:
            raise BadImageError(f"{error} Cut it into smaller pictures.") from error
        with image:
            _check_size(*image.size)
            count = getattr(image, "n_frames", 1)
            if count > 1:
                notes.append(_first_only(count))
            image.load()
            orientation, exif, damaged = _exif(image)
            notes += damaged
            icc = image.info.get("icc_profile")
            if data.startswith(_PNG_SIGNATURE) and data[24] == 16:
                samples = _png16_samples(data)  # Pillow would cut the samples to 8 bits
            else:
                samples = np.asarray(_plain(image))
                if image.mode == "CMYK":
                    icc = None
                    notes.append("CMYK became RGB without the use of its colour profile; colours may differ")
    notes += [str(warning.message) for warning in caught]
    return _picture(samples, orientation, icc or None, exif, notes)


def _check_png_is_whole(data: bytes) -> None:
    """Pillow takes a file without an end for whole, and one without pixels for none of its formats."""
    if len(data) >= _PNG_HEADER_END:
        _check_size(*struct.unpack(">II", data[16:24]))
    if b"IEND" not in data[-_PNG_TAIL:]:
        raise BadImageError("the picture is cut short; copy or export it again")


def _plain(image: Image.Image) -> Image.Image:
    """The picture as one of L, LA, RGB, RGBA with 8 bits a sample."""
    if image.mode not in _PLAIN_MODE:
        raise BadImageError(f"has samples of a kind that is not supported ({image.mode}); save it as 8- or 16-bit RGB")
    mode = _PLAIN_MODE[image.mode]
    if image.has_transparency_data:
        mode = _WITH_ALPHA[mode]
    return image if image.mode == mode and "transparency" not in image.info else image.convert(mode)


def _png16_samples(data: bytes) -> NDArray[np.uint16]:
    import imagecodecs  # here because ComfyUI, which hands us tensors, need not have it

    return imagecodecs.png_decode(data)


def _exif(image: Image.Image) -> tuple[int, bytes | None, list[str]]:
    """Orientation (1..8), the EXIF block without it and without sizes, and warnings."""
    try:
        exif = image.getexif()
        orientation = exif.pop(_EXIF_ORIENTATION, 1)
        if _EXIF_SUB_IFD in exif:
            for tag in _EXIF_SIZES:
                exif.get_ifd(_EXIF_SUB_IFD).pop(tag, None)
        # A TIFF's EXIF lies among the tags that describe its own layout; those would be wrong in any other file.
        block = exif.tobytes() if len(exif) and image.format != "TIFF" else None
    except Exception:  # broken metadata raise all sorts, and must not cost the picture
        return 1, None, ["its EXIF data is damaged and was left out"]
    return orientation, block, []


def _read_tiff(data: bytes) -> Picture:
    import tifffile  # here because ComfyUI, which hands us tensors, need not have it

    with tifffile.TiffFile(BytesIO(data)) as file:
        if not len(file.pages):
            raise BadImageError("the picture is cut short; copy or export it again")
        page = file.pages.first
        _check_size(page.imagewidth, page.imagelength)
        _check_tiff_is_whole(page, len(data))
        if page.sampleformat != 1 or page.bitspersample not in (1, 2, 4, 8, 16):
            raise BadImageError(
                f"has {page.bitspersample}-bit samples of TIFF sample format {int(page.sampleformat)}; "
                "save it with 8- or 16-bit unsigned integers"
            )
        if page.bitspersample < 8 or (page.bitspersample == 8 and page.photometric not in _TIFF_COLOURS):
            return _read_with_pillow(data)  # bilevel, palette, CMYK, YCbCr: Pillow converts them
        samples, notes = _tiff_samples(page)
        tag = page.tags.get(_TIFF_ORIENTATION)
        if len(file.pages) > 1:
            notes.append(_first_only(len(file.pages)))
        return _picture(samples, int(tag.value) if tag else 1, page.iccprofile or None, None, notes)


def _check_tiff_is_whole(page: Any, size: int) -> None:
    """Missing or empty pieces would come back as black pixels, without an error."""
    starts, lengths = page.dataoffsets, page.databytecounts
    inside = all(n > 0 and start + n <= size for start, n in zip(starts, lengths, strict=False))
    if not inside or min(len(starts), len(lengths)) < math.prod(page.chunked):
        raise BadImageError("the picture is cut short; copy or export it again")


def _tiff_samples(page: Any) -> tuple[NDArray[Any], list[str]]:
    """[H, W, C] of any layout (strips, tiles, interleaved, planar), black at 0, alpha not premultiplied; warnings."""
    colours = _TIFF_COLOURS.get(page.photometric)
    planes, depth, height, width, interleaved = page.shaped
    if colours is None or depth != 1 or planes * interleaved < colours:
        raise BadImageError(f"is a {page.bitspersample}-bit TIFF that is neither grey nor RGB; save it as RGB")
    samples = page.asarray().reshape(planes, height, width, interleaved)
    samples = samples.transpose(1, 2, 0, 3).reshape(height, width, planes * interleaved)
    colour, extra = samples[..., :colours], samples[..., colours:]
    top = np.iinfo(samples.dtype).max
    if page.photometric == _TIFF_WHITE_IS_ZERO:
        colour = top - colour
    meaning = page.extrasamples[0] if extra.shape[2] and page.extrasamples else None
    if meaning not in (_TIFF_ASSOCIATED_ALPHA, _TIFF_UNASSOCIATED_ALPHA):
        return colour, [f"{extra.shape[2]} extra channels that are not alpha were left out"] if extra.shape[2] else []
    alpha = extra[..., :1]
    if meaning == _TIFF_ASSOCIATED_ALPHA:
        straight = np.rint(colour * (float(top) / np.maximum(alpha, 1)))
        colour = np.minimum(straight, top).astype(samples.dtype)
    more = extra.shape[2] - 1
    return np.concatenate([colour, alpha], axis=2), [f"{more} channels beyond alpha were left out"] if more else []


def _check_size(width: int, height: int) -> None:
    if width < 1 or height < 1:
        raise BadImageError(f"has no pixels ({width}x{height})")
    # The limit that Pillow itself enforces for the formats it opens; None when the user's program switched it off.
    if Image.MAX_IMAGE_PIXELS is not None and width * height > 2 * Image.MAX_IMAGE_PIXELS:
        raise BadImageError(
            f"has {width}x{height} pixels, more than the {2 * Image.MAX_IMAGE_PIXELS} taken as safe from "
            "decompression bombs. Cut it into smaller pictures."
        )


def _first_only(count: int) -> str:
    return f"holds {count} pictures; only the first was read"


def _picture(
    samples: NDArray[np.uint8] | NDArray[np.uint16],
    orientation: int,
    icc: bytes | None,
    exif: bytes | None,
    notes: list[str],
) -> Picture:
    """From samples [H, W] or [H, W, C] as they lie in the file."""
    bits = samples.dtype.itemsize * 8
    samples = samples.reshape(*samples.shape[:2], -1)
    pixels = np.ascontiguousarray(_upright(samples, orientation), dtype=np.float32)
    pixels /= 2**bits - 1
    return Picture(pixels, bits, icc, exif, tuple(notes))


def _upright(samples: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Apply an EXIF orientation (2..8; anything else is upright) to [H, W, C]."""
    turns: dict[int, Callable[[NDArray[Any]], NDArray[Any]]] = {
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.swapaxes(0, 1),
        6: lambda a: np.rot90(a, -1),
        7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
        8: lambda a: np.rot90(a),
    }
    return turns[orientation](samples) if orientation in turns else samples


def _levels(pixels: NDArray[np.float32], bits: int) -> NDArray[Any]:
    """[H, W, C] in 0..1 as the nearest integers; one channel becomes [H, W], as the encoders want it."""
    top = 2**bits - 1
    levels = np.rint(np.clip(pixels, 0.0, 1.0) * top).astype(np.uint16 if bits == 16 else np.uint8)
    return levels[..., 0] if levels.shape[2] == 1 else levels


def _encode_png(picture: Picture) -> tuple[bytes, tuple[str, ...]]:
    if picture.bits == 8:
        return _encode_with_pillow(picture, "PNG"), ()
    import imagecodecs

    data = bytes(imagecodecs.png_encode(_levels(picture.pixels, 16)))
    chunks = b""
    if picture.icc:
        chunks += _png_chunk(b"iCCP", b"ICC Profile\0\0" + zlib.compress(picture.icc))
    if picture.exif:
        chunks += _png_chunk(b"eXIf", picture.exif.removeprefix(b"Exif\0\0"))
    return data[:_PNG_HEADER_END] + chunks + data[_PNG_HEADER_END:], ()


def _png_chunk(name: bytes, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload)) + name + payload + struct.pack(">I", zlib.crc32(name + payload))


def _encode_jpeg(picture: Picture) -> tuple[bytes, tuple[str, ...]]:
    lost = _lost_depth(picture, "JPEG")
    channels = picture.pixels.shape[2]
    pixels, exif = picture.pixels, picture.exif
    if channels in (2, 4):
        pixels = pixels[..., : channels - 1]
        lost += ("JPEG has no alpha; it was left out",)
    if exif and len(exif) > _EXIF_LIMIT_IN_JPEG:
        exif = None
        lost += (f"EXIF data beyond {_EXIF_LIMIT_IN_JPEG} bytes does not fit a JPEG; it was left out",)
    plain = Picture(pixels, icc=picture.icc, exif=exif)
    return _encode_with_pillow(plain, "JPEG", quality=95, subsampling=0), lost


def _encode_webp(picture: Picture) -> tuple[bytes, tuple[str, ...]]:
    lost = _lost_depth(picture, "WebP")
    if picture.icc and picture.icc[_ICC_COLOUR_SPACE] == b"GRAY":
        picture = replace(picture, icc=None)
        lost += ("WebP stores grey as RGB, which a grey colour profile does not fit; it was left out",)
    return _encode_with_pillow(picture, "WEBP", quality=95), lost


def _lost_depth(picture: Picture, format_name: str) -> tuple[str, ...]:
    return (f"{format_name} has 8 bits a sample; the picture's 16 were rounded",) if picture.bits == 16 else ()


def _encode_with_pillow(picture: Picture, format_name: str, **settings: Any) -> bytes:
    metadata = {"icc_profile": picture.icc, "exif": picture.exif}
    buffer = BytesIO()
    Image.fromarray(_levels(picture.pixels, 8)).save(
        buffer, format_name, **settings, **{name: block for name, block in metadata.items() if block}
    )
    return buffer.getvalue()


def _encode_tiff(picture: Picture) -> tuple[bytes, tuple[str, ...]]:
    import tifffile

    channels = picture.pixels.shape[2]
    buffer = BytesIO()
    tifffile.imwrite(
        buffer,
        _levels(picture.pixels, picture.bits),
        photometric="rgb" if channels >= 3 else "minisblack",
        planarconfig="contig",
        extrasamples=("unassalpha",) if channels in (2, 4) else None,
        compression="zlib",
        predictor=True,
        iccprofile=picture.icc,
        metadata=None,  # no description of shapes for tifffile's own use
        software=False,
    )
    return buffer.getvalue(), ("EXIF data is not kept in TIFF files",) if picture.exif else ()


_ENCODERS: dict[str, Callable[[Picture], tuple[bytes, tuple[str, ...]]]] = {
    ".png": _encode_png,
    ".jpg": _encode_jpeg,
    ".jpeg": _encode_jpeg,
    ".webp": _encode_webp,
    ".tif": _encode_tiff,
    ".tiff": _encode_tiff,
}


def _write_whole(path: Path, data: bytes) -> None:
    # Beside the target, so that the last step is a rename within one file system, which is all or nothing.
    temporary = path.with_name(f".{uuid.uuid4().hex}.tmp")
    try:
        with temporary.open("xb") as file:
            file.write(data)
        temporary.replace(path)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror or error}") from error
    finally:
        with suppress(OSError):  # gone after the rename; and where it cannot be removed, the first error matters more
            temporary.unlink()
