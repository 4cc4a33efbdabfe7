"""Where the training pictures come from: photographs inside two PyPI wheels, and collections that the user clones.

Nothing is downloaded here. Each photograph's licence is stated by the package or repository that ships it
(scikit-image's `skimage.data` docstrings, scikit-learn's `datasets/images/README.txt`, the collections' README or
`debian/copyright`); pictures without a stated licence are not used, nor are sets made for research only.
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
    """One photograph: the package or collection that holds it, its licence, and the largest useful share of its size.

    `largest` below 1 means the original is softer than its pixel count, so only shrunken versions carry detail.
    """

    place: str
    file: str
    licence: str
    largest: float = 1.0


@dataclass(frozen=True)
class Collection:
    """A git repository of photographs, cloned by the user into a folder `name` at `commit`."""

    name: str
    url: str
    commit: str
    photos: tuple[Photo, ...]


def _photos(collection: str, files: str, stems: str, licence: str, largest: float = 1.0) -> tuple[Photo, ...]:
    """A photo for each of the `stems`, which semicolons part; `files` is a path with braces where a stem belongs."""
    return tuple(Photo(collection, files.format(stem), licence, largest) for stem in stems.split(";"))


IN_WHEELS: tuple[Photo, ...] = (
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

# The 4K photographs are used at half their size and less: that hides their noise and JPEG traces.
COLLECTIONS: tuple[Collection, ...] = (
    Collection(
        "kodak",
        "https://github.com/MohamedBakrAli/Kodak-Lossless-True-Color-Image-Suite",
        "dd2e1105fe8d9afe1120cd7e4c0e5e41f509a81b",
        _photos(
            "kodak",
            "PhotoCD_PCD0992/{}.png",
            "01;02;03;04;06;07;08;09;10;11;12;13;14;16;17;18;20;21;22;24",
            "released by the Eastman Kodak Company for unrestricted usage (README)",
        ),
    ),
    Collection(
        "budgie",
        "https://github.com/BuddiesOfBudgie/budgie-backgrounds",
        "82067426f1dde366e9c9038fdbe457c2527525dd",
        _photos(
            "budgie",
            "backgrounds/{}.jpg",
            "abstract-spiral;beacon-street-sunset;blue-periwinkle;canyon-wren;casa-mila;high-trestle-trail;lake-sherburne;"
            "oakland-zoo-otters;ocean-waves;perched-osprey;piazza-gae-aulenti;roman-colosseum;singaporean-cityscape;"
            "tea-gardens;the-spices-of-life",
            "CC0 (LICENSE)",
            0.5,
        ),
    ),
    Collection(
        "pop",
        "https://github.com/pop-os/wallpapers",
        "03a25a14a76eaf3825b980ab50aad6698c1c5a35",
        _photos(
            "pop",
            "original/{}.jpg",
            "galen-crout-175291;jad-limcaco-183877;jared-evans-119758;kait-herzog-8242;nasa-45068;nasa-89127;"
            "sean-afnan-244576;sebastien-gabriel-232361;spacex-81773",
            "public domain (README; NASA, SpaceX, and Unsplash while its photographs were CC0)",
            0.4,
        ),
    ),
    Collection(
        "elementary",
        "https://github.com/elementary/wallpapers",
        "f28b86144ba01d788ac61ad198ca16fa9477913f",
        _photos(
            "elementary",
            "backgrounds/{}.jpg",
            "Ashim DSilva;Mr. Lee;Sunset by the Pier",
            "CC0 (debian/copyright, branch deb-packaging; Unsplash before June 8, 2017)",
            0.45,
        ),
    ),
)

# Never trained on: the validation pictures. The first is also the one `make demo` shows.
HELD_OUT = Photo("skimage", "chelsea.png", "CC0 (Stefan van der Walt)")
HELD_OUT_COLLECTED = tuple(Photo("kodak", f"PhotoCD_PCD0992/{n}.png", "as above") for n in ("05", "15", "19", "23"))

_WHEELS = {
    "skimage": Path(skimage.__file__).parent / "data",
    "sklearn": Path(sklearn.__file__).parent / "datasets" / "images",
}


def load(photo: Photo, photos: Path | None = None) -> Image.Image:
    """The photograph as an 8-bit RGB picture, at its full size."""
    folder = _WHEELS.get(photo.place)
    if folder is None:
        assert photos is not None, "a collected photograph needs the folder of the collections"
        folder = photos / photo.place
    return Image.open(folder / photo.file).convert("RGB")


def training_photos(photos: Path | None) -> list[Photo]:
    """Those of the wheels and, given the folder that holds the collections, all of theirs."""
    if photos is None:
        return list(IN_WHEELS)
    return [*IN_WHEELS, *(photo for collection in COLLECTIONS for photo in collection.photos)]


def held_out_photos(photos: Path | None) -> list[Photo]:
    return [HELD_OUT] if photos is None else [HELD_OUT, *HELD_OUT_COLLECTED]


def check(photos: Path) -> None:
    """Ends the program where a collection is missing: all of them in one error, with the commands that bring them."""
    wanted = [*training_photos(photos), *held_out_photos(photos)]
    lacking = {p.place for p in wanted if p.place not in _WHEELS and not (photos / p.place / p.file).is_file()}
    missing = [collection for collection in COLLECTIONS if collection.name in lacking]
    if missing:
        folders = [f"'{photos / c.name}'" for c in missing]
        commands = "".join(
            f"\n  git clone {c.url} {folder} && git -C {folder} checkout {c.commit}"
            for c, folder in zip(missing, folders, strict=True)
        )
        raise SystemExit(
            f"{photos} lacks photographs. What brings them:{commands}\nWithout --photos, only the wheels' are used."
        )


def shrunken(picture: Image.Image, largest: float, rng: np.random.Generator, copies: int) -> list[Image.Image]:
    """`copies` versions of `picture`: the largest useful one, then random smaller ones down to 0.4 of that.

    Shrinking sharpens: it turns a few photographs into many scales of detail.
    """
    shares = [largest, *(largest * rng.uniform(0.4, 0.95) for _ in range(copies - 1))]
    sizes = [(max(192, round(picture.width * s)), max(192, round(picture.height * s))) for s in shares]
    return [picture if size == picture.size else picture.resize(size, Image.Resampling.LANCZOS) for size in sizes]
