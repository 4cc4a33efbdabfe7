"""`Picture`: what every format is read into and written from; samples to values and back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .metadata import Carried, Metadata

_SAMPLES_AT_ONCE = 1 << 20


@dataclass(frozen=True)
class Picture:
    """One picture, upright.

    `pixels` is float32 [H, W, C] in 0..1; C = 1, 2, 3, 4 means grey, grey and alpha (not premultiplied), RGB, RGBA.
    `bits` is the depth per sample of the file it came from: 8, 16, or 32 for floats. `metadata` is what else was in it.
    `warnings` say what was lost. `white`, at least 1, is the colour value that 1 in `pixels` stands for: floats may be
    brighter than white, models must not see such, and so all were divided by the brightest (see `floats.py`).
    """

    pixels: NDArray[np.float32]
    bits: int = 8
    metadata: Metadata = field(default_factory=Metadata)
    warnings: tuple[str, ...] = ()
    white: float = 1.0

    @property
    def colours(self) -> int:
        """Channels without alpha."""
        return 1 if self.pixels.shape[2] <= 2 else 3


def picture_of(
    samples: NDArray[np.uint8] | NDArray[np.uint16],
    carried: Carried,
    notes: Sequence[str] = (),
    top: int | None = None,
) -> Picture:
    """From samples [H, W] or [H, W, C] as they lie in the file, whose largest is `top`, or all that their type has; and
    what else was found there."""
    bits = samples.dtype.itemsize * 8
    samples = samples.reshape(*samples.shape[:2], -1)
    pixels = np.ascontiguousarray(upright(samples, carried.orientation), dtype=np.float32)
    pixels /= top or 2**bits - 1
    return Picture(pixels, bits, carried.metadata, (*notes, *carried.notes))


def displayed(picture: Picture) -> NDArray[np.float32]:
    """The pixels with white at 1; what is brighter is above it."""
    if picture.white == 1:
        return picture.pixels
    pixels = picture.pixels.copy()
    pixels[..., : picture.colours] *= picture.white
    return pixels


def levels(picture: Picture, bits: int) -> NDArray[Any]:
    """[H, W, C] as the nearest integers, without what is brighter than white; one channel becomes [H, W], as the
    encoders want it."""
    top = 2**bits - 1
    made: NDArray[Any] = np.empty(picture.pixels.shape, np.uint16 if bits == 16 else np.uint8)
    step = max(1, _SAMPLES_AT_ONCE // made[0].size)
    for start in range(0, made.shape[0], step):  # a large picture's floats must not be there three times
        rows = slice(start, start + step)
        values = np.clip(displayed(replace(picture, pixels=picture.pixels[rows])), 0.0, 1.0)
        values *= top
        made[rows] = np.rint(values, out=values)
    return made[..., 0] if made.shape[2] == 1 else made


def lost_depth(picture: Picture, format_name: str, kept: int = 8) -> tuple[str, ...]:
    """Warnings of a format that keeps `kept` bits a sample."""
    lost: tuple[str, ...] = ()
    if picture.bits > kept:
        had = "floats" if picture.bits == 32 else str(picture.bits)
        lost += (f"{format_name} has {kept} bits a sample; the picture's {had} were rounded",)
    if picture.white > 1 and float(picture.pixels[..., : picture.colours].max()) * picture.white > 1:
        lost += (f"{format_name} has nothing brighter than white; values up to {picture.white:.3g} were clipped",)
    return lost


def first_only(count: int) -> str:
    return f"holds {count} pictures; only the first was read"


def upright(samples: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Apply an EXIF orientation (2..8; anything else is upright) to [H, W, C]."""
    turns: dict[int, Callable[[NDArray[Any]], NDArray[Any]]] = {
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.swapaxes(0, 1),
        6: lambda a: np.rot90(a, -1),
        7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
        8: lambda a: np.rot90(a),
    }
    return turns[orientation](samples) if orientation in turns else samples
