"""Picture files and float arrays: read one into `Picture`, write one back, whole or not at all."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ..api.errors import BadImageError, OutputError
from .codecs import png, tiff, with_pillow
from .codecs.picture import Picture
from .whole import write_whole

READABLE_ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp")
WRITABLE_ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff")
ENDINGS_OF_16_BITS = (".png", ".tif", ".tiff")  # the formats that keep them
LONGEST_SIDE = {".jpg": 65500, ".jpeg": 65500, ".webp": 16383}  # pixels; limits of libjpeg and of the WebP format


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
        return tiff.read(data) if data.startswith(tiff.SIGNATURES) else with_pillow.read(data)
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
            "write a .png or .tif file instead, of a folder with --format png"
        )


def write_image(path: Path, picture: Picture) -> tuple[str, ...]:
    """Write `picture` in the format that `path` ends with and return warnings about what that format cannot hold.

    Values are rounded to the nearest 8- or 16-bit level (PNG and TIFF keep 16 bits), values outside 0..1 are clipped.
    PNG and TIFF are lossless; JPEG has quality 95 without chroma subsampling, WebP is lossy at quality 95. JPEG loses
    alpha, TIFF loses EXIF. The file appears complete or not at all, and replaces one or a link that is there.
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
    write_whole(path, data)
    return lost


def _encode_png(picture: Picture) -> tuple[bytes, tuple[str, ...]]:
    return png.encode_16_bits(picture) if picture.bits == 16 else with_pillow.encode(picture, "PNG"), ()


_ENCODERS: dict[str, Callable[[Picture], tuple[bytes, tuple[str, ...]]]] = {
    ".png": _encode_png,
    ".jpg": with_pillow.encode_jpeg,
    ".jpeg": with_pillow.encode_jpeg,
    ".webp": with_pillow.encode_webp,
    ".tif": tiff.encode,
    ".tiff": tiff.encode,
}
