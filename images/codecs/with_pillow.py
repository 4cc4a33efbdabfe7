"""What Pillow decodes and encodes: bytes that are one of its formats, looked at before, to samples of 8 bits."""

from __future__ import annotations

import warnings
from dataclasses import replace
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import BmpImagePlugin, GifImagePlugin, Image, ImageFile, JpegImagePlugin, TiffImagePlugin

from ...api.errors import BadImageError
from . import jpeg_metadata, webp_metadata
from .exif import to_bytes
from .picture import Picture, levels, lost_depth

CMYK = "CMYK became RGB without the use of its colour profile; colours may differ"
# One format, not a guess among all: fewer decoders meet unknown bytes. And opened by its class: `Image.open` has a
# limit of pixels for the whole process, which is Pillow's and not ours to move.
_FORMATS: dict[str, type[ImageFile.ImageFile]] = {
    "JPEG": JpegImagePlugin.JpegImageFile,
    "BMP": BmpImagePlugin.BmpImageFile,
    "GIF": GifImagePlugin.GifImageFile,
    "TIFF": TiffImagePlugin.TiffImageFile,
}
_PLAIN_MODE = {
    "1": "L", "L": "L", "LA": "LA", "La": "LA", "P": "RGB", "PA": "RGBA", "RGB": "RGB", "RGBX": "RGB",
    "RGBA": "RGBA", "RGBa": "RGBA", "CMYK": "RGB", "YCbCr": "RGB",
}  # fmt: skip
_WITH_ALPHA = {"L": "LA", "RGB": "RGBA", "LA": "LA", "RGBA": "RGBA"}


def decode(format_name: str, data: bytes) -> tuple[NDArray[np.uint8], list[str]]:
    """The first picture in `data` as samples [H, W] or [H, W, C] of grey or RGB, with or without alpha; warnings.

    Raises `BadImageError` for a mode of Pillow's that is neither; on damaged bytes, all that Pillow raises.
    """
    # Scoped: what Pillow warns of belongs to this picture. Large pictures are our trade, so that one is not passed on.
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        with _FORMATS[format_name](BytesIO(data)) as image:
            image.load()
            samples = np.asarray(_plain(image))
            notes = [CMYK] if image.mode == "CMYK" else []
    return samples, notes + [str(warning.message) for warning in caught]


def encode_jpeg(picture: Picture) -> tuple[bytes, tuple[str, ...]]:
    lost = lost_depth(picture, "JPEG")
    channels = picture.pixels.shape[2]
    if channels in (2, 4):
        channels -= 1
        picture = replace(picture, pixels=picture.pixels[..., :channels])
        lost += ("JPEG has no alpha; it was left out",)
    buffer = BytesIO()
    Image.fromarray(levels(picture, 8)).save(buffer, "JPEG", quality=95, subsampling=0)
    data, more = jpeg_metadata.with_metadata(buffer.getvalue(), picture.metadata, channels)
    return data, lost + more


def encode_webp(picture: Picture) -> tuple[bytes, tuple[str, ...]]:
    metadata, lost = webp_metadata.fitted(picture.metadata)
    exif = to_bytes(metadata.exif) if metadata.exif else None
    blocks = {"icc_profile": metadata.icc, "exif": exif, "xmp": metadata.xmp}
    data = webp_bytes(levels(picture, 8), **{name: block for name, block in blocks.items() if block})
    return data, lost_depth(picture, "WebP") + lost


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
