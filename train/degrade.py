"""Make the small picture a network learns to undo: mostly plain bicubic, now and then a mild blur, filter or JPEG."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, ImageFilter

# Plain bicubic is what people compare with and what most careful software does; the rest keeps the network from
# amplifying what ordinary pictures carry. Mild on purpose: a default model must not invent.
_PLAIN_SHARE = 0.9
_JPEG_SHARE = 0.35  # of the pictures that are not plain
_FILTERS = (
    Image.Resampling.BICUBIC,
    Image.Resampling.LANCZOS,
    Image.Resampling.BILINEAR,
    Image.Resampling.BOX,
)


def degrade(picture: Image.Image, scale: int, rng: np.random.Generator) -> Image.Image:
    """`picture` shrunk by `scale` (its sides must be multiples of it), by a random mild degradation."""
    size = (picture.width // scale, picture.height // scale)
    if rng.random() < _PLAIN_SHARE:
        return picture.resize(size, Image.Resampling.BICUBIC)
    if rng.random() < 0.4:
        picture = picture.filter(ImageFilter.GaussianBlur(rng.uniform(0.2, 0.8)))
    small = picture.resize(size, _FILTERS[int(rng.integers(len(_FILTERS)))])
    if rng.random() < _JPEG_SHARE:
        buffer = io.BytesIO()
        small.save(buffer, "JPEG", quality=int(rng.integers(82, 98)), subsampling=int(rng.integers(0, 3)))
        small = Image.open(buffer).convert("RGB")
    return small
