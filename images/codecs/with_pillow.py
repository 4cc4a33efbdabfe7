"""What Pillow reads and writes: JPEG, WebP, BMP, PNG of 8 bits, and the TIFF files that it converts."""

from __future__ import annotations

import warnings
from dataclasses import replace
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image

from ...api.errors import BadImageError
from . import png
from .picture import Picture, check_size, first_only, levels, lost_depth, picture_of

_PILLOW_FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP")  # nothing else is tried: fewer decoders meet unknown bytes
_PLAIN_MODE = {
    "1": "L", "L": "L", "LA": "LA", "La": "LA", "P": "RGB", "PA": "RGBA", "RGB": "RGB", "RGBX": "RGB",
    "RGBA": "RGBA", "RGBa": "RGBA", "CMYK": "RGB", "YCbCr": "RGB",
}  # fmt: skip
_WITH_ALPHA = {"L": "LA", "RGB": "RGBA", "LA": "LA", "RGBA": "RGBA"}

_EXIF_ORIENTATION, _EXIF_SUB_IFD = 0x0112, 0x8769
_EXIF_SIZES = (0xA002, 0xA003)  # PixelXDimension, PixelYDimension
_ICC_COLOUR_SPACE = slice(16, 20)  # of a profile's header
_EXIF_LIMIT_IN_JPEG = 65533  # bytes; one APP1 segment


def read(data: bytes) -> Picture:
    notes: list[str] = []
    if data.startswith(png.SIGNATURE):
        png.check_is_whole(data)
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
            check_size(*image.size)
            count = getattr(image, "n_frames", 1)
            if count > 1:
                notes.append(first_only(count))
            image.load()
            orientation, exif, damaged = _exif(image)
            notes += damaged
            icc = image.info.get("icc_profile")
            if data.startswith(png.SIGNATURE) and png.bits_of(data) == 16:
                samples = png.samples_of_16_bits(data)  # Pillow would cut the samples to 8 bits
            else:
                samples = np.asarray(_plain(image))
                if image.mode == "CMYK":
                    icc = None
                    notes.append("CMYK became RGB without the use of its colour profile; colours may differ")
    notes += [str(warning.message) for warning in caught]
    return picture_of(samples, orientation, icc or None, exif, notes)


def encode_jpeg(picture: Picture) -> tuple[bytes, tuple[str, ...]]:
    lost = lost_depth(picture, "JPEG")
    channels = picture.pixels.shape[2]
    pixels, exif = picture.pixels, picture.exif
    if channels in (2, 4):
        pixels = pixels[..., : channels - 1]
        lost += ("JPEG has no alpha; it was left out",)
    if exif and len(exif) > _EXIF_LIMIT_IN_JPEG:
        exif = None
        lost += (f"EXIF data beyond {_EXIF_LIMIT_IN_JPEG} bytes does not fit a JPEG; it was left out",)
    plain = Picture(pixels, icc=picture.icc, exif=exif)
    return encode(plain, "JPEG", quality=95, subsampling=0), lost


def encode_webp(picture: Picture) -> tuple[bytes, tuple[str, ...]]:
    lost = lost_depth(picture, "WebP")
    if picture.icc and picture.icc[_ICC_COLOUR_SPACE] == b"GRAY":
        picture = replace(picture, icc=None)
        lost += ("WebP stores grey as RGB, which a grey colour profile does not fit; it was left out",)
    return encode(picture, "WEBP", quality=95), lost


def encode(picture: Picture, format_name: str, **settings: Any) -> bytes:
    metadata = {"icc_profile": picture.icc, "exif": picture.exif}
    buffer = BytesIO()
    Image.fromarray(levels(picture.pixels, 8)).save(
        buffer, format_name, **settings, **{name: block for name, block in metadata.items() if block}
    )
    return buffer.getvalue()


def _plain(image: Image.Image) -> Image.Image:
    """The picture as one of L, LA, RGB, RGBA with 8 bits a sample."""
    if image.mode not in _PLAIN_MODE:
        raise BadImageError(f"has samples of a kind that is not supported ({image.mode}); save it as 8- or 16-bit RGB")
    mode = _PLAIN_MODE[image.mode]
    if image.has_transparency_data:
        mode = _WITH_ALPHA[mode]
    return image if image.mode == mode and "transparency" not in image.info else image.convert(mode)


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
