"""Picture files and float arrays: read one into `Picture`, write one back, whole or not at all."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, TypeVar

from ..api.errors import BadImageError, OutputError
from .codecs import animated_gif, png, png_metadata, tiff, tiff_metadata, with_pillow
from .codecs.picture import Picture, levels

READABLE_ENDINGS = (".png", ".apng", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".gif", ".bmp")
WRITABLE_ENDINGS = (".png", ".apng", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".gif")
ENDINGS_OF_16_BITS = (".png", ".apng", ".tif", ".tiff")  # the formats that keep them
LONGEST_SIDE = {".jpg": 65500, ".jpeg": 65500, ".webp": 16383, ".gif": 65535}  # pixels; of libjpeg, and of the formats


def read_image(path: Path) -> Picture:
    """Read an 8- or 16-bit PNG or TIFF, or a JPEG, WebP, GIF or BMP; the content decides, not the ending.

    Orientation is applied; palettes, bilevel and CMYK pictures become grey or RGB, with alpha where they have
    transparency; of an animation or a multi-page file only the first picture is read.
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
        return tiff.read(data) if data.startswith(tiff_metadata.SIGNATURES) else with_pillow.read(data)
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
    PNG and TIFF are lossless; JPEG has quality 95 without chroma subsampling, WebP is lossy at quality 95, GIF has 256
    colours. JPEG loses alpha. The file appears complete or not at all, and replaces one that is there.
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
    write_whole(path, lambda file: file.write(data))
    return lost


def _encode_png(picture: Picture) -> tuple[bytes, tuple[str, ...]]:
    return png_metadata.with_metadata(png.encode(levels(picture.pixels, picture.bits)), picture.metadata), ()


_ENCODERS: dict[str, Callable[[Picture], tuple[bytes, tuple[str, ...]]]] = {
    ".png": _encode_png,
    ".apng": _encode_png,
    ".jpg": with_pillow.encode_jpeg,
    ".jpeg": with_pillow.encode_jpeg,
    ".webp": with_pillow.encode_webp,
    ".tif": tiff.encode,
    ".tiff": tiff.encode,
    ".gif": animated_gif.encode,
}


Result = TypeVar("Result")


def write_whole(path: Path, write: Callable[[BinaryIO], Result]) -> Result:
    """Have `write` fill a file that takes the place of `path` once it is complete. Raises `OutputError`."""
    # Beside the target, so that the last step is a rename within one file system, which is all or nothing.
    temporary = path.with_name(f".{uuid.uuid4().hex}.tmp")
    try:
        with temporary.open("xb") as file:
            result = write(file)
        temporary.replace(path)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror or error}") from error
    finally:
        with suppress(OSError):  # gone after the rename; and where it cannot be removed, the first error matters more
            temporary.unlink()
    return result
