"""What the bytes of a picture file carry beside the pixels, whatever its format."""

from __future__ import annotations

import struct

from . import bmp_metadata, gif_metadata, jpeg_metadata, png, png_metadata, tiff_metadata, webp_metadata
from .metadata import Carried, Stored, clean


def read_carried(data: bytes) -> Carried:
    """What goes with the upright pixels of the file `data`; nothing of it ever costs the picture."""
    try:
        return clean(_stored(data))
    except (struct.error, ValueError, IndexError):
        return Carried(notes=("its metadata is damaged and was left out",))


def _stored(data: bytes) -> Stored:
    if data.startswith(png.SIGNATURE):
        return png_metadata.read(data)
    if data.startswith(jpeg_metadata.SIGNATURE):
        return jpeg_metadata.read(data)
    if data.startswith(tiff_metadata.SIGNATURES):
        return tiff_metadata.read(data)
    if data.startswith(gif_metadata.SIGNATURES):
        return gif_metadata.read(data)
    if data.startswith(bmp_metadata.SIGNATURE):
        return bmp_metadata.read(data)
    return webp_metadata.read(data) if webp_metadata.is_webp(data) else Stored()
