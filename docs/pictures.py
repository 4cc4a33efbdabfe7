"""Draws the README's comparisons anew: `python docs/pictures.py`, into docs/pictures.

Crops of a photograph, of a drawing and of text, the last two rendered here and made a quarter as large: enlarged by
Pillow's bicubic filter beside the bundled x2 model, both shown three times as large, pixel by pixel.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from cudaspeed import UpscaleOptions, load_model, upscale

FOLDER = Path(__file__).absolute().parent / "pictures"
PHOTOGRAPH = FOLDER.parent.parent / "examples" / "chelsea.png"

_MODEL = "cudaspeed-compact-x2"
_SIDE = (150, 100)  # of a crop of the enlarged picture
_SHOWN = 3  # pixels for each of its pixels
_BAND = 28  # for what is written above
_SENTENCE = "Sphinx of black quartz, judge my vow. 0123456789"


def photograph() -> tuple[Image.Image, tuple[int, int]]:
    """The example, and where in its enlargement to look."""
    return Image.open(PHOTOGRAPH).convert("RGB"), (300, 170)


def drawing() -> tuple[Image.Image, tuple[int, int]]:
    """Lines and flat colours: rings, rays and a hatching."""
    large = Image.new("RGB", (1200, 800), "#f4f1e8")
    pen = ImageDraw.Draw(large)
    for k, colour in enumerate(("#d1495b", "#edae49", "#00798c", "#30638e")):
        radius = 320 - 70 * k
        pen.ellipse((600 - radius, 400 - radius, 600 + radius, 400 + radius), fill=colour, outline="#1b1b1b", width=10)
    for angle in np.linspace(0, 2 * np.pi, 24, endpoint=False):
        end = (600 + 560 * np.cos(angle), 400 + 560 * np.sin(angle))
        pen.line((600, 400, *end), fill="#1b1b1b", width=6)
    for x in range(0, 1200, 32):
        pen.line((x, 800, x + 160, 640), fill="#1b1b1b", width=5)
    return large.resize((300, 200), Image.Resampling.LANCZOS), (300, 100)


def text() -> tuple[Image.Image, tuple[int, int]]:
    """A few lines in several sizes."""
    large = Image.new("RGB", (1200, 800), "white")
    pen = ImageDraw.Draw(large)
    y = 24
    for size in (88, 72, 60, 52, 44, 88, 72):
        pen.text((24, y), _SENTENCE, fill="#101010", font=ImageFont.load_default(size))
        y += round(1.3 * size)
    return large.resize((300, 200), Image.Resampling.LANCZOS), (6, 6)


def enlarged_by_model(picture: Image.Image) -> Image.Image:
    """By the bundled x2 model, in fp32, without anything that is measured: the same on every machine of a kind."""
    image = torch.from_numpy(np.asarray(picture, np.float32) / 255)[None]
    result = upscale(image, load_model(_MODEL), UpscaleOptions(reproducible=True)).image
    return Image.fromarray((result[0] * 255).round().to(torch.uint8).numpy())


def enlarged_by_bicubic(picture: Image.Image) -> Image.Image:
    return picture.resize((picture.width * 2, picture.height * 2), Image.Resampling.BICUBIC)


def compared(picture: Image.Image, corner: tuple[int, int]) -> Image.Image:
    """Both, side by side, with their names above."""
    width, height = (side * _SHOWN for side in _SIDE)
    sheet = Image.new("RGB", (2 * width + 8, height + _BAND), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(16)
    ways: tuple[tuple[str, Callable[[Image.Image], Image.Image]], ...] = (
        ("bicubic", enlarged_by_bicubic),
        (_MODEL, enlarged_by_model),
    )
    for k, (name, enlarge) in enumerate(ways):
        x, y = corner
        crop = enlarge(picture).crop((x, y, x + _SIDE[0], y + _SIDE[1]))
        sheet.paste(crop.resize((width, height), Image.Resampling.NEAREST), (k * (width + 8), _BAND))
        pen.text((k * (width + 8), 5), name, fill="#222222", font=font)
    return sheet


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    for make in (photograph, drawing, text):
        sheet = compared(*make())
        sheet.save(FOLDER / f"{make.__name__}.png", optimize=True)


if __name__ == "__main__":
    main()
