"""Where the training pictures come from: photographs inside two PyPI wheels, and pictures we draw ourselves.

Nothing is downloaded. Each photograph's licence is stated by the package that ships it (scikit-image's `skimage.data`
docstrings, scikit-learn's `datasets/images/README.txt`); pictures without a stated licence are not used.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import skimage
import sklearn
from PIL import Image


@dataclass(frozen=True)
class Photo:
    """One photograph: the package and file that hold it, its licence, and the largest share of its size worth using.

    `largest` below 1 means the original is softer than its pixel count, so only shrunken versions carry detail.
    """

    package: str
    file: str
    licence: str
    largest: float = 1.0


PHOTOS: tuple[Photo, ...] = (
    Photo("skimage", "astronaut.png", "public domain (NASA)"),
    Photo("skimage", "brick.png", "CC0 (CC0Textures)"),
    Photo("skimage", "camera.png", "CC0 (Lav Varshney)"),
    Photo("skimage", "coffee.png", "CC0 (Rachel Michetti)"),
    Photo("skimage", "coins.png", "no known copyright restrictions (Brooklyn Museum)"),
    Photo("skimage", "grass.png", "CC0 (Linolafett)"),
    Photo("skimage", "gravel.png", "CC0 (CC0Textures)"),
    Photo("skimage", "hubble_deep_field.jpg", "public domain (NASA)", 0.5),
    Photo("skimage", "ihc.png", "no known copyright restrictions (CMMI)", 0.7),
    Photo("skimage", "retina.jpg", "CC0 (Mikael Häggström)", 0.4),
    Photo("skimage", "rocket.jpg", "public domain (SpaceX)"),
    Photo("sklearn", "china.jpg", "CC BY 2.0 (danielbuechele, flickr 6061409035)"),
    Photo("sklearn", "flower.jpg", "CC BY 2.0 (vultilion, flickr 6056698931)"),
)

# Never trained on: the validation picture, and the one `make demo` shows.
HELD_OUT = Photo("skimage", "chelsea.png", "CC0 (Stefan van der Walt)")

_FOLDERS = {
    "skimage": Path(skimage.__file__).parent / "data",
    "sklearn": Path(sklearn.__file__).parent / "datasets" / "images",
}


def load(photo: Photo) -> Image.Image:
    """The photograph as an 8-bit RGB picture, at its full size."""
    return Image.open(_FOLDERS[photo.package] / photo.file).convert("RGB")


def shrunken(picture: Image.Image, largest: float, rng: np.random.Generator, copies: int) -> list[Image.Image]:
    """`copies` versions of `picture`: the largest useful one, then random smaller ones down to half of that.

    Shrinking sharpens: it turns a few photographs into many scales of detail.
    """
    shares = [largest, *(largest * rng.uniform(0.5, 0.95) for _ in range(copies - 1))]
    sizes = [(max(96, round(picture.width * s)), max(96, round(picture.height * s))) for s in shares]
    return [picture if size == picture.size else picture.resize(size, Image.Resampling.LANCZOS) for size in sizes]
