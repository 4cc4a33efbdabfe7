"""The weights by which pixels become more or fewer along an axis: area, bicubic and Lanczos, with antialiasing.

A new pixel is the weighted mean of those around its centre. Its weights are the filter's values at their distances,
stretched where pixels become fewer so that each of them counts, and divided by their sum, also at a picture's ends,
where the filter has less to stand on. Pillow does the same, by the same filters ("Resample.c", in its own words); the
tests hold this against it.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ..api.resize import Resample
from .fit import Sampling

# New pixels whose weights are kept together as one dense block: the block is then about as long as the pixels that a
# band stands for. Longer ones hold more zeros, and shorter ones make smaller products.
_PIXELS_OF_A_BAND, _LEAST, _MOST = 32, 4, 64
_LOBES = {"bicubic": 2, "lanczos": 3}  # pixels that the filter reaches to either side
_NOTHING = 1e-12  # what a filter's zeros are in floating point


class Band(NamedTuple):
    """New pixels in a row, made of the old ones `start` to `stop`: `weights` [n, stop - start] float32 times these."""

    start: int
    stop: int
    weights: Tensor


def reach(resample: Resample, ratio: float) -> int:
    """Old pixels that a new one may take in on either side of its centre, where it stands for `ratio` of them."""
    lobes = _LOBES.get(resample)
    return math.ceil(lobes * max(1.0, ratio) if lobes else max(1.0, (ratio + 1) / 2))


def bands(sampling: Sampling, resample: Resample, margin: int = 0) -> tuple[Band, ...]:
    """All new pixels of an axis, in order. Of a picture with a `margin` of pixels before and after its own."""
    many = min(_MOST, max(_LEAST, round(_PIXELS_OF_A_BAND / sampling.ratio)))
    return tuple(
        _band(sampling, resample, margin, range(first, min(first + many, sampling.total)))
        for first in range(0, sampling.total, many)
    )


def _band(sampling: Sampling, resample: Resample, margin: int, new: range) -> Band:
    kept = [number - sampling.before for number in new if 0 <= number - sampling.before < sampling.length]
    if not kept:
        return Band(0, 0, torch.zeros(len(new), 0))
    ratio, around = sampling.ratio, reach(resample, sampling.ratio)
    ends = [margin + (sampling.start + place + 0.5) * ratio for place in (kept[0], kept[-1])]
    start = max(0, math.floor(ends[0] - around))
    stop = min(sampling.size + 2 * margin, math.ceil(ends[1] + around))
    places = torch.tensor(new, dtype=torch.float64) - sampling.before
    centres = margin + (sampling.start + places + 0.5) * ratio
    distances = torch.arange(start, stop, dtype=torch.float64) + 0.5 - centres[:, None]
    weights = _values(resample, distances, ratio)
    weights[weights.abs() < _NOTHING] = 0  # pixels that coincide stay as they are
    weights[(places < 0) | (places >= sampling.length)] = 0  # the empty ones
    sums = weights.sum(dim=1, keepdim=True)
    return Band(start, stop, (weights / torch.where(sums == 0, 1, sums)).float())


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
