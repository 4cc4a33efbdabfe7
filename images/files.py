"""Picture files and float arrays: read one into `Picture`, write one back, whole or not at all."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from ..api.errors import BadImageError, OutputError
from .codecs import animated_gif, bmp, exr, gif, jpeg, png, tiff, webp, with_pillow
from .codecs.picture import Picture
from .codecs.source import open_regular
from .kinds import HEAD_BYTES, recognise
from .limits import DEFAULT_LIMITS, DecodeLimits
from .whole import write_whole

ENDINGS_OF_16_BITS = (".png", ".apng", ".tif", ".tiff", ".exr")  # the formats that keep them, or more
LONGEST_SIDE = {".jpg": 65500, ".jpeg": 65500, ".webp": 16383, ".gif": 65535}  # pixels; of libjpeg, and of the formats


def read_image(path: Path, limits: DecodeLimits = DEFAULT_LIMITS) -> Picture:
    """Read a PNG, TIFF, OpenEXR, JPEG, WebP, GIF or BMP; the content decides, not the ending.

    PNG and TIFF of 16 bits keep them, TIFF and OpenEXR of floats as well (`Picture.white` for what is above 1).

    Orientation is applied; palettes, bilevel and CMYK pictures become grey or RGB, with alpha where they have
    transparency; of an animation or a multi-page file only the first picture is read.
    Raises `BadImageError` if the file is unreadable, not a regular file, no such picture, cut short, without pixels,
    of a kind that is not supported, or asks for more than `limits` before anything is decoded.
    """
    try:
        with open_regular(path) as file:
            head = file.read(HEAD_BYTES)
            if not head:
                raise BadImageError("the file is empty; copy or export it again")
            kind = recognise(head)
            if kind is None:
                kinds = ", ".join(_DECODERS)
                raise BadImageError(f"is no picture of a kind that is read ({kinds}), or its header is damaged")
            file.seek(0)
            return _DECODERS[kind](file, limits)
    except BadImageError as error:
        raise BadImageError(f"{path}: {error}") from error
    except OSError as error:
        if error.errno is None:  # Pillow's, about the bytes
            raise BadImageError(_damaged(path, error)) from error
        raise BadImageError(f"{path}: cannot be read: {error.strerror or error}") from error
    except MemoryError:
        raise
    except ImportError as error:
        raise BadImageError(f"{path}: {error.name} is needed to read it; pip install {error.name}") from error
    except Exception as error:  # on broken bytes decoders raise all sorts: SyntaxError, struct.error, ...
        raise BadImageError(_damaged(path, error)) from error


def _damaged(path: Path, error: Exception) -> str:
    return f"{path}: the picture is damaged or cut short; copy or export it again ({type(error).__name__}: {error})"


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

    Values are rounded to the nearest 8- or 16-bit level (PNG and TIFF keep 16 bits), values outside 0..1 are clipped;
    TIFF keeps the floats of a picture of such, and OpenEXR, which gets linear light, always has floats.
    PNG and TIFF are lossless; JPEG has quality 95 without chroma subsampling, WebP is lossy at quality 95, GIF has 256
    colours. JPEG loses alpha. The file appears complete or not at all, and replaces a file or link that is there.
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
        raise OutputError(f"{path}: {error.name} is needed to write it; pip install {error.name}") from error
    write_whole(path, lambda file: file.write(data))
    return lost


_ENCODERS: dict[str, Callable[[Picture], tuple[bytes, tuple[str, ...]]]] = {
    ".png": png.encode,
    ".apng": png.encode,
    ".jpg": with_pillow.encode_jpeg,
    ".jpeg": with_pillow.encode_jpeg,
    ".webp": with_pillow.encode_webp,
    ".tif": tiff.encode,
    ".tiff": tiff.encode,
    ".gif": animated_gif.encode,
    ".exr": exr.encode,
}


_DECODERS: dict[str, Callable[[BinaryIO, DecodeLimits], Picture]] = {
    "PNG": png.read,
    "JPEG": jpeg.read,
    "WebP": webp.read,
    "TIFF": tiff.read,
    "BMP": bmp.read,
    "GIF": gif.read,
    "OpenEXR": exr.read,
}
