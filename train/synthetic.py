"""Pictures we draw: line art, text and dead leaves. Drawn three times too large and shrunk, so edges are antialiased.

Dead leaves (overlapping shapes with power-law sizes) share the edge statistics of photographs; training on them is
known to carry over to real pictures (Achddou, Gousseau, Ladjal, "Synthetic images as a regularity prior for image
restoration neural networks", SSVM 2021).
"""

from __future__ import annotations

import math
import string

import numpy as np
from PIL import Image, ImageDraw, ImageFont

_OVERSIZE = 3


def _colour(rng: np.random.Generator) -> tuple[int, int, int]:
    if rng.random() < 0.3:
        return (int(rng.choice([0, 20, 235, 255])),) * 3
    return tuple(int(v) for v in rng.integers(0, 256, 3))


def _canvas(size: int, rng: np.random.Generator) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    picture = Image.new("RGB", (size * _OVERSIZE,) * 2, _colour(rng))
    return picture, ImageDraw.Draw(picture)


def _finish(picture: Image.Image, size: int) -> Image.Image:
    return picture.resize((size, size), Image.Resampling.LANCZOS)


def line_art(size: int, rng: np.random.Generator) -> Image.Image:
    """Curves, polygons and arcs in a few widths, some filled: the strokes of comics, plans and drawings."""
    picture, draw = _canvas(size, rng)
    whole = size * _OVERSIZE
    for _ in range(int(rng.integers(12, 40))):
        width = int(rng.integers(1, 8)) * _OVERSIZE // 2 + 1
        kind = rng.random()
        if kind < 0.5:
            steps = np.linspace(0, 1, 24)[:, None]
            p = rng.uniform(-0.1, 1.1, (4, 2)) * whole
            curve = (
                (1 - steps) ** 3 * p[0]
                + 3 * (1 - steps) ** 2 * steps * p[1]
                + 3 * (1 - steps) * steps**2 * p[2]
                + steps**3 * p[3]
            )
            draw.line([tuple(q) for q in curve], fill=_colour(rng), width=width, joint="curve")
        elif kind < 0.8:
            corners = rng.uniform(0, 1, (int(rng.integers(3, 7)), 2)) * whole * 0.5 + rng.uniform(0, 0.5, 2) * whole
            fill = _colour(rng) if rng.random() < 0.5 else None
            draw.polygon([tuple(q) for q in corners], fill=fill, outline=_colour(rng), width=width)
        else:
            x, y, r = rng.uniform(0, whole), rng.uniform(0, whole), rng.uniform(0.02, 0.3) * whole
            draw.ellipse((x - r, y - r, x + r, y + r), outline=_colour(rng), width=width)
    return _finish(picture, size)


def text(size: int, rng: np.random.Generator) -> Image.Image:
    """Lines of random characters from 8 to 48 pixels high, in the font that ships inside Pillow."""
    picture, draw = _canvas(size, rng)
    letters = list(string.ascii_letters + string.digits + ".,:;!?()-+=%&   ")
    y = 0.0
    while y < size * _OVERSIZE:
        height = float(rng.uniform(8, 48)) * _OVERSIZE
        line = "".join(rng.choice(letters, 60))
        draw.text((float(rng.uniform(-20, 20)), y), line, fill=_colour(rng), font=ImageFont.load_default(height))
        y += height * float(rng.uniform(1.0, 1.5))
    return _finish(picture.rotate(float(rng.choice([0, 0, rng.uniform(-20, 20)])), Image.Resampling.BICUBIC), size)


def dead_leaves(size: int, rng: np.random.Generator, palette: np.ndarray) -> Image.Image:
    """Overlapping ellipses and polygons, sizes by a power law, colours drawn from `palette` [N, 3] uint8."""
    picture, draw = _canvas(size, rng)
    whole = size * _OVERSIZE
    for _ in range(700):
        radius = whole * 0.012 / max(1e-3, rng.random()) ** 0.6
        radius = min(radius, whole * 0.25)
        x, y, turn = rng.uniform(0, whole), rng.uniform(0, whole), rng.uniform(0, math.tau)
        corners = int(rng.choice([3, 4, 5, 24]))
        angles = turn + np.linspace(0, math.tau, corners, endpoint=False)
        squeeze = rng.uniform(0.3, 1.0)
        px = np.cos(angles) * radius
        py = np.sin(angles) * radius * squeeze
        points = np.stack(
            [x + px * math.cos(turn) - py * math.sin(turn), y + px * math.sin(turn) + py * math.cos(turn)], 1
        )
        draw.polygon([tuple(q) for q in points], fill=tuple(int(v) for v in palette[rng.integers(len(palette))]))
    return _finish(picture, size)
