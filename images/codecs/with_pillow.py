"""What Pillow reads and writes: JPEG, WebP, BMP, PNG of 8 bits, and the TIFF files that it converts."""

from __future__ import annotations

import warnings
from dataclasses import replace
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ...api.errors import BadImageError
from . import jpeg_metadata, png, webp_metadata
from .carried import read_carried
from .exif_block import to_bytes
from .picture import Picture, check_size, first_only, levels, lost_depth, picture_of

_PILLOW_FORMATS = (
    "PNG",
    "JPEG",
    "WEBP",
    "TIFF",
    "BMP",
    "GIF",
)  # nothing else is tried: fewer decoders meet unknown bytes
_PLAIN_MODE = {
    "1": "L", "L": "L", "LA": "LA", "La": "LA", "P": "RGB", "PA": "RGBA", "RGB": "RGB", "RGBX": "RGB",
    "RGBA": "RGBA", "RGBa": "RGBA", "CMYK": "RGB", "YCbCr": "RGB",
}  # fmt: skip
_WITH_ALPHA = {"L": "LA", "RGB": "RGBA", "LA": "LA", "RGBA": "RGBA"}


def read(data: bytes) -> Picture:
    notes: list[str] = []
    if data.startswith(png.SIGNATURE):
        png.check_is_whole(data)
    carried, is_jpeg = read_carried(data), data.startswith(jpeg_metadata.SIGNATURE)
    # Scoped: what Pillow warns of belongs to this picture. Large pictures are our trade, so that one is not passed on.
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        try:
            image = Image.open(BytesIO(jpeg_metadata.bare(data) if is_jpeg else data), formats=_PILLOW_FORMATS)
        except Image.UnidentifiedImageError:
            raise BadImageError(
                "is not a PNG, JPEG, WebP, TIFF, BMP or GIF picture, or its header is damaged"
            ) from None
        except Image.DecompressionBombError as error:
            raise BadImageError(f"{error} Cut it into smaller pictures.") from error
        with image:
            check_size(*image.size)
            count = getattr(image, "n_frames", 1)
            if count > 1:
                notes.append(first_only(count))
            image.load()
            if data.startswith(png.SIGNATURE) and png.bits_of(data) == 16:
                samples = png.samples_of_16_bits(data)  # Pillow would cut the samples to 8 bits
            else:
                samples = np.asarray(_plain(image))
                if image.mode == "CMYK":
                    carried = replace(carried, metadata=replace(carried.metadata, icc=None))
                    notes.append("CMYK became RGB without the use of its colour profile; colours may differ")
    notes += [str(warning.message) for warning in caught]
    return picture_of(samples, carried, notes)


def encode_jpeg(picture: Picture) -> tuple[bytes, tuple[str, ...]]:
    lost = lost_depth(picture.bits, "JPEG")
    pixels, channels = picture.pixels, picture.pixels.shape[2]
    if channels in (2, 4):
        channels -= 1
        pixels = pixels[..., :channels]
        lost += ("JPEG has no alpha; it was left out",)
    buffer = BytesIO()
    Image.fromarray(levels(pixels, 8)).save(buffer, "JPEG", quality=95, subsampling=0)
    data, more = jpeg_metadata.with_metadata(buffer.getvalue(), picture.metadata, channels)
    return data, lost + more


def encode_webp(picture: Picture) -> tuple[bytes, tuple[str, ...]]:
    metadata, lost = webp_metadata.fitted(picture.metadata)
    exif = to_bytes(metadata.exif) if metadata.exif else None
    blocks = {"icc_profile": metadata.icc, "exif": exif, "xmp": metadata.xmp}
    data = webp_bytes(levels(picture.pixels, 8), **{name: block for name, block in blocks.items() if block})
    return data, lost_depth(picture.bits, "WebP") + lost


def webp_bytes(samples: NDArray[np.uint8], **beside: bytes) -> bytes:
    """[H, W] or [H, W, C] as a file; `beside` as Pillow names it."""
    buffer = BytesIO()
    Image.fromarray(samples).save(buffer, "WEBP", quality=95, **beside)
    return buffer.getvalue()


def _plain(image: Image.Image) -> Image.Image:
    """The picture as one of L, LA, RGB, RGBA with 8 bits a sample."""
    if image.mode not in _PLAIN_MODE:
        raise BadImageError(f"has samples of a kind that is not supported ({image.mode}); save it as 8- or 16-bit RGB")
    mode = _PLAIN_MODE[image.mode]
    if image.has_transparency_data:
        mode = _WITH_ALPHA[mode]
    return image if image.mode == mode and "transparency" not in image.info else image.convert(mode)
