"""Whether a tile came out well: four numbers taken where it was computed, before any clamp, and judged where they
arrive. The numbers cost two passes over the tile's output and no copy of it; nothing waits for them on the device.

What looks wrong need not be: a network may brighten pictures on purpose, and random weights resemble nothing. So tiles
are only suspected here. What becomes of a suspect is decided by computing it again, better (retry.py).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..api.samples import Samples
from ..postprocess import DETAIL, HEALTHY_RANGE, NO_DETAIL, OUTSIDE

TileFault = Literal["NaN or infinite values", "wild values", "a broken range", "no detail", "drifting colours"]

# No picture has values this far outside of 0..1: one of them is enough to look closer.
_WILD = 16.0
# The bundled x2 model moves photographs by 0.007 at the median, and noisy ones in small tiles by 0.047 at most. A veil
# of 0.3 moves some shade of most tiles by more than this.
MOST_SHIFT = 0.08
_GRID = 32  # tiles are compared with their inputs in at most so many places each way
_SHADES = 5
_COLOURS = 3  # what comes after is alpha
_FLAT = 0.1  # of the usual deviation of latents: what has less says nothing of how much is right


class TileStats(NamedTuple):
    """`low` and `high`: a tile's least and largest value (NaN where it holds a NaN). `shift`: how far a shade
    of a channel (the mean of a fifth of its values, sorted) is at most from the input's. `detail`: the distance between
    the input's darkest and brightest."""

    low: float
    high: float
    shift: float
    detail: float


def as_pictures(batch: Tensor, output: Tensor, samples: Samples) -> tuple[Tensor, Tensor]:
    """Tiles [N, C, h, w] and what became of them, [N, C', sh, sw], as `measure_tiles` and `find_fault` take them:
    pictures as they are, latents by the mean and the deviation that the channels of each input tile have."""
    if samples.limits:
        return batch, output
    deviation, mean = torch.std_mean(batch.float(), dim=(2, 3), correction=0, keepdim=True)  # a pixel has one, too
    deviation = deviation.clamp(min=_FLAT * samples.deviation)
    return samples.as_picture(batch, mean, deviation), samples.as_picture(output, mean, deviation)


def measure_tiles(batch: Tensor, output: Tensor) -> Tensor:
    """What `TileStats` needs, [N, 4] float32 on the device, of tiles [N, C, h, w] and what became of them [N, C', sh,
    sw].

    Colours are compared, and where only one side has them, their means.
    """
    # in the order in which the values lie in memory: torch copies what it is to reduce in any other
    dense = output if output.is_contiguous() else output.permute(0, 2, 3, 1)
    samples = [_samples(tiles, batch.shape[2:]) for tiles in (batch, output)]
    if samples[0].shape == samples[1].shape:
        before, after = _shades(torch.cat(samples)).chunk(2)
    else:
        before, after = (_shades(some).mean(dim=1, keepdim=True) for some in samples)
    if dense.device.type == "cpu":
        return _measured(dense, before.numpy(), after.numpy())
    if dense.is_cuda:  # few kernels; on others a reduction over a dimension may be much slower than one over all
        extremes = torch.stack(torch.aminmax(dense.flatten(1), dim=1), dim=1)
    else:
        extremes = torch.stack([torch.stack(torch.aminmax(tile)) for tile in dense])  # NaN is passed on
    shift, detail = (after - before).abs().amax(dim=(1, 2)), (before[..., -1] - before[..., 0]).amax(dim=1)
    return torch.cat([extremes.float(), shift[:, None], detail[:, None]], dim=1)


def _measured(dense: Tensor, before: NDArray[np.float32], after: NDArray[np.float32]) -> Tensor:
    """The same on a CPU, from shades [N, C, 5]. Of a small tile torch would take longer to set out for each of its
    operations than to do it."""
    numbers = np.empty((len(before), 4), np.float32)
    for row, tile in zip(numbers, dense.unbind(), strict=True):
        row[:2] = [float(end) for end in torch.aminmax(tile)]  # NaN is passed on
    numbers[:, 2] = np.abs(after - before).max(axis=(1, 2))
    numbers[:, 3] = (before[..., -1] - before[..., 0]).max(axis=1)
    return torch.from_numpy(numbers)


def find_fault(stats: TileStats, picture: Callable[[], Tensor], most_shift: float = MOST_SHIFT) -> TileFault | None:
    """What is wrong with a tile by its stats, or None. The tile itself, `picture` [C, h, w], is asked for only where
    they are odd."""
    low, high = stats.low, stats.high
    if not (math.isfinite(low) and math.isfinite(high)):
        return "NaN or infinite values"
    if stats.detail > DETAIL and high - low < NO_DETAIL:
        return "no detail"
    if low < HEALTHY_RANGE[0] or high > HEALTHY_RANGE[1]:
        tile = picture()
        outside = torch.stack([(tile < HEALTHY_RANGE[0]).sum(), (tile > HEALTHY_RANGE[1]).sum()])
        if int(outside.max()) > OUTSIDE * tile.numel():
            return "a broken range"
        if max(-low, high) > _WILD:
            return "wild values"
    return "drifting colours" if stats.shift > most_shift else None


def _samples(tiles: Tensor, size: torch.Size) -> Tensor:
    """[N, C', k] float32 of the colours of tiles [N, C, H, W], in the same places for tiles of another scale: the
    middles of at most 32x32 evenly spread pixels of the input's `size` (h, w)."""
    rows, columns = (
        slice(scale // 2, None, scale * -(-side // _GRID))
        for scale, side in ((max(1, have // side), side) for have, side in zip(tiles.shape[2:], size, strict=True))
    )
    return tiles[:, :_COLOURS, rows, columns].float().flatten(2)


def _shades(samples: Tensor) -> Tensor:
    """[N, C, 5] of [N, C, k]: the means of the darkest fifth, the next, ... the brightest.

    A single quantile would leap where a picture has two shades and little between them; these move no more than the
    values do.
    """
    return torch.adaptive_avg_pool1d(_by_size(samples), _SHADES)


def _by_size(samples: Tensor) -> Tensor:
    """[N, C, k], each of the rows from its least value to its largest."""
    if samples.device.type != "cpu":
        return samples.sort(dim=2).values
    return torch.from_numpy(np.sort(samples.numpy(), axis=2))  # torch's own takes five times as long there
