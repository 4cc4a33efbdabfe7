"""Frames of animated GIF and WebP files as a viewer shows them: each whole, composed with those before, by Pillow."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from io import BytesIO

import numpy as np
from PIL import GifImagePlugin, ImageFile, WebPImagePlugin

from . import gif_metadata, webp_metadata
from .frames import Frame, Played

_WEBP_FLAGS, _ANIMATED = 20, 0b10  # where a WebP tells what is in it, and the bit for frames


def played(data: bytes) -> Played | None:
    """How `data`, a GIF or WebP, is played; None if they hold no more than one picture."""
    if not data.startswith(gif_metadata.SIGNATURES) and not (
        webp_metadata.is_webp(data) and data[_WEBP_FLAGS] & _ANIMATED
    ):
        return None
    with _opened(data) as image:
        count = getattr(image, "n_frames", 1)
        if count < 2:
            return None
        plays = int(image.info.get("loop", 1 if image.format == "GIF" else 0))
        if image.format == "GIF" and plays and "loop" in image.info:
            plays += 1  # a GIF tells how often it is played again
        return Played(count, image.size, plays)


def frames(data: bytes) -> Iterator[Frame]:
    """The frames of a GIF or WebP, decoded one at a time, all of the first one's size."""
    with _opened(data) as image:
        size = image.size
        for index in range(getattr(image, "n_frames", 1)):
            # Scoped, and not around the `yield`: what Pillow warns of here it has been asked about before.
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                image.seek(index)
                image.load()
                alpha = image.has_transparency_data
                grey = image.mode == "L" and not alpha
                plain = image.convert("L" if grey else "RGBA" if alpha else "RGB")
                shown = plain if plain.size == size else plain.crop((0, 0, *size))
            samples = np.asarray(shown)
            yield Frame(samples.reshape(*samples.shape[:2], -1), float(image.info.get("duration", 0)))


def _opened(data: bytes) -> ImageFile.ImageFile:
    # By their classes: `Image.open` has a limit of pixels for the whole process, which is not ours to move.
    if data.startswith(gif_metadata.SIGNATURES):
        return GifImagePlugin.GifImageFile(BytesIO(data))
    return WebPImagePlugin.WebPImageFile(BytesIO(data))
