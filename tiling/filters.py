"""The weights by which pixels become more or fewer along an axis: area, bicubic and Lanczos, with antialiasing.

A new pixel is the weighted mean of those around its centre. Its weights are the filter's values at their distances,
stretched where pixels become fewer so that each of them counts, and divided by their sum, also at a picture's ends,
where the filter has less to stand on. Pillow does the same, by the same filters; the tests hold this against it.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ..api.resize import Resample
from .fit import Sampling

# Old pixels that the new ones of a band stand for, and new ones at least and at most. Longer bands hold more zeros, and
# shorter ones overlap more.
_PIXELS_OF_A_BAND, _LEAST, LONGEST_BAND = 48, 4, 64
_LOBES = {"bicubic": 2, "lanczos": 3}  # pixels that the filter reaches to either side
_NOTHING = 1e-12  # what a filter's zeros are in floating point


class Bands(NamedTuple):
    """All new pixels of an axis, `total`, by bands of n, all alike so that they are one product: number b is made of
    the `pixels` old ones from `starts[b]` on, by `weights[b]`. `weights` are [bands, n, pixels] float32, those beyond
    the last new pixel 0; `starts` never go back."""

    total: int
    pixels: int
    starts: tuple[int, ...]
    weights: Tensor


def reach(resample: Resample, ratio: float) -> int:
    """Old pixels that a new one may take in on either side of its centre, where it stands for `ratio` of them."""
    lobes = _LOBES.get(resample)
    return math.ceil(lobes * max(1.0, ratio) if lobes else max(1.0, (ratio + 1) / 2))


def bands_of(sampling: Sampling, resample: Resample, margin: int = 0, most: int = LONGEST_BAND) -> Bands:
    """The bands of what is kept of an axis, of at most so many new pixels each. The picture has a `margin` of further
    pixels before and after its own."""
    ratio, around = sampling.ratio, reach(resample, sampling.ratio)
    have, total = sampling.size + 2 * margin, sampling.length
    many = min(most, max(_LEAST, round(_PIXELS_OF_A_BAND / ratio)), total)
    pixels = min(have, math.ceil((many - 1) * ratio) + 2 * around + 1)
    places = torch.arange(-(-total // many) * many, dtype=torch.float64, device="cpu").view(-1, many)
    centres = margin + (sampling.start + places + 0.5) * ratio
    starts = (centres[:, 0] - around).floor().clamp(0, have - pixels)
    distances = starts[:, None, None] + torch.arange(pixels, device="cpu") + 0.5 - centres[..., None]
    weights = _values(resample, distances, ratio)
    weights[weights.abs() < _NOTHING] = 0  # pixels that coincide stay as they are
    weights[places >= total] = 0
    sums = weights.sum(dim=2, keepdim=True)
    weights = (weights / torch.where(sums == 0, 1, sums)).float()
    return Bands(total, pixels, tuple(map(int, starts.tolist())), weights)


def _values(resample: Resample, distances: Tensor, ratio: float) -> Tensor:
    """The filter at `distances` (float64, in old pixels) from a new pixel's centre, not yet made to sum to 1.

    "area" is the part of each old pixel that the new one covers, and where pixels become more, the line from one centre
    to the next. "bicubic" is Keys' cubic with a = -0.5 ("Cubic Convolution Interpolation", 1981), "lanczos" Lanczos-3.
    """
    if resample == "area" and ratio >= 1:
        half = ratio / 2
        return ((distances + 0.5).clamp(max=half) - (distances - 0.5).clamp(min=-half)).clamp(min=0)
    x = distances.abs() / max(1.0, ratio)
    if resample == "area":
        return (1 - x).clamp(min=0)
    if resample == "bicubic":
        near, far = (1.5 * x - 2.5) * x * x + 1, ((-0.5 * x + 2.5) * x - 4) * x + 2
        return torch.where(x < 1, near, torch.where(x < 2, far, 0))
    return torch.where(x < 3, torch.sinc(x) * torch.sinc(x / 3), 0)
