"""`Picture`: what every format is read into and written from; samples to values and back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ...api.errors import BadImageError
from .metadata import Carried, Metadata


@dataclass(frozen=True)
class Picture:
    """One picture, upright.

    `pixels` is float32 [H, W, C] in 0..1; C = 1, 2, 3, 4 means grey, grey and alpha (not premultiplied), RGB, RGBA.
    `bits` (8 or 16) is the depth per sample of the file it came from. `metadata` is what else was in that file.
    `warnings` say what was lost.
    """

    pixels: NDArray[np.float32]
    bits: int = 8
    metadata: Metadata = field(default_factory=Metadata)
    warnings: tuple[str, ...] = ()


def picture_of(samples: NDArray[np.uint8] | NDArray[np.uint16], carried: Carried, notes: Sequence[str] = ()) -> Picture:
    """From samples [H, W] or [H, W, C] as they lie in the file, and what else was found there."""
    bits = samples.dtype.itemsize * 8
    samples = samples.reshape(*samples.shape[:2], -1)
    pixels = np.ascontiguousarray(_upright(samples, carried.orientation), dtype=np.float32)
    pixels /= 2**bits - 1
    return Picture(pixels, bits, carried.metadata, (*notes, *carried.notes))


def levels(pixels: NDArray[np.float32], bits: int) -> NDArray[Any]:
    """[H, W, C] in 0..1 as the nearest integers; one channel becomes [H, W], as the encoders want it."""
    top = 2**bits - 1
    levels = np.rint(np.clip(pixels, 0.0, 1.0) * top).astype(np.uint16 if bits == 16 else np.uint8)
    return levels[..., 0] if levels.shape[2] == 1 else levels


def lost_depth(bits: int, format_name: str) -> tuple[str, ...]:
    return (f"{format_name} has 8 bits a sample; the picture's 16 were rounded",) if bits == 16 else ()


def first_only(count: int) -> str:
    return f"holds {count} pictures; only the first was read"


def check_size(width: int, height: int) -> None:
    if width < 1 or height < 1:
        raise BadImageError(f"has no pixels ({width}x{height})")
    # The limit that Pillow itself enforces for the formats it opens; None when the user's program switched it off.
    if Image.MAX_IMAGE_PIXELS is not None and width * height > 2 * Image.MAX_IMAGE_PIXELS:
        raise BadImageError(
            f"has {width}x{height} pixels, more than the {2 * Image.MAX_IMAGE_PIXELS} taken as safe from "
            "decompression bombs. Cut it into smaller pictures."
        )


def _upright(samples: NDArray[Any], orientation: int) -> NDArray[Any]:
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
