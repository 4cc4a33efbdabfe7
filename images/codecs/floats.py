"""Pictures of floats, which may be brighter than white: made what models know, and made floats again.

Models are trained on 0 to 1, with white at 1. So nothing is cut off: all colours are divided by the brightest, which
`Picture.white` keeps, and multiplied by it where they are written. What cannot be kept is told in warnings.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_KNEE = 0.0031308  # linear; below it the curve is a line
_SLOPE, _GAMMA, _OFFSET = 12.92, 2.4, 0.055
# Of scene-linear light, through the curve: 4.6 stops above white. A single firefly at 60000 would make all else so dark
# that models see nothing in it.
BRIGHTEST_LIGHT = 4.0


def shown(light: NDArray[np.float32]) -> NDArray[np.float32]:
    """Linear light, at least 0, by sRGB's curve (IEC 61966-2-1), which goes on above white."""
    return np.where(
        light <= _KNEE, light * _SLOPE, (1 + _OFFSET) * np.maximum(light, _KNEE) ** (1 / _GAMMA) - _OFFSET
    ).astype(np.float32)


def light(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """The inverse of `shown`."""
    return np.where(
        values <= _KNEE * _SLOPE, values / _SLOPE, ((np.maximum(values, 0) + _OFFSET) / (1 + _OFFSET)) ** _GAMMA
    ).astype(np.float32)


def without_gaps(samples: NDArray[np.float32]) -> tuple[NDArray[np.float32], list[str]]:
    """Numbers alone: NaN becomes 0, an infinity the largest or 0; negative values become 0. Warnings say so."""
    notes = []
    bad = ~np.isfinite(samples)
    if bad.any():
        notes.append(f"{int(bad.sum())} values are NaN or infinite; they became 0 or the brightest that is there")
        largest = float(samples[~bad].max(initial=0))
        samples = np.nan_to_num(samples, nan=0, posinf=largest, neginf=0)
    least = float(samples.min())
    if least < 0:
        notes.append(f"values below 0, down to {least:.3g}, became 0")
        samples = np.maximum(samples, 0)
    return samples, notes


def under_white(pixels: NDArray[np.float32], colours: int, most: float | None) -> tuple[float, list[str]]:
    """Divide the first `colours` channels of `pixels` [H, W, C] by the brightest above 1, in place: it, and warnings.

    With `most`, what is brighter than that is cut off. Alpha is held within 0 to 1.
    """
    colour, alpha = pixels[..., :colours], pixels[..., colours:]
    np.clip(alpha, 0, 1, out=alpha)
    white, notes = max(1.0, float(colour.max())), []
    if most and white > most:
        notes.append(f"values beyond {float(light(np.array(most, np.float32))):.3g} times white were clamped to it")
        np.minimum(colour, most, out=colour)
        white = most
    if white > 1:
        notes.append(f"values go up to {white:.3g} where white is 1; they were divided by it for the model")
        colour /= white
    return white, notes
