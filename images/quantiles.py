"""Exact quantiles of any number of values, without sorting them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

_CHUNK = 1 << 20  # values that are worked on at once
# Upper halves of float32's bits: how many there are, where zero's is when negatives come first, infinity's beyond it.
_HALF, _ZERO, _INFINITY = 1 << 16, 1 << 15, 0x7F80


def quantiles(values: Tensor, shares: Sequence[float]) -> tuple[float, ...]:
    """The exact quantiles, at `shares` 0..1, of the finite `values` (floats of 16 or 32 bits, any shape and layout).

    Between two ranks it interpolates linearly, as numpy.quantile does; where nothing is finite all quantiles are 0.0.

    By radix selection (Alabi, Blanchard, Gordon and Steinbach, Fast k-selection algorithms for graphics processing
    units, ACM JEA 17, 2012): floats sort like their bits, so counting the upper halves of the bits tells the upper
    halves of the values at the wanted ranks, and counting the lower halves of the values that share these tells the
    rest: two passes, whatever the distribution. (torch.quantile sorts, and before torch 2.15 refuses more than 2^24.)
    """
    # in the order of memory, so that a permuted picture need not be copied
    flat = values.permute(sorted(range(values.dim()), key=values.stride, reverse=True)).reshape(-1)
    counts = torch.zeros(_HALF, dtype=torch.int64, device=flat.device)
    for _, upper in _halves(flat):
        counts += torch.bincount(upper, minlength=_HALF)
    counts[:_ZERO] = counts[:_ZERO].flip(0)  # below zero, the larger the bits the smaller the value
    counts[: _ZERO - _INFINITY] = counts[_ZERO + _INFINITY :] = 0
    up_to = counts.cumsum(0)
    last = int(up_to[-1]) - 1
    if last < 0:
        return (0.0,) * len(shares)
    places = torch.tensor([share * last for share in shares], dtype=torch.float64)
    ranks = torch.cat([places.floor(), places.ceil()]).long().to(flat.device)
    upper = torch.searchsorted(up_to, ranks, right=True)
    found, row = upper.unique(return_inverse=True)
    ranks = ranks - (up_to - counts)[upper] + (counts[found].cumsum(0) - counts[found])[row]  # among the found ones
    lower = torch.searchsorted(_count_lower(flat, found).cumsum(0), ranks, right=True) % _HALF
    at_ranks = _flip_negative(((upper - _ZERO) * _HALF + lower).int()).view(torch.float32)
    below, above = at_ranks.cpu().double().chunk(2)
    return tuple(torch.lerp(below, above, places.frac()).tolist())


def _halves(flat: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Chunk by chunk, `flat`'s bits as float32 and the upper halves of them as 0..65535, those of negatives first."""
    buffer = torch.empty(min(_CHUNK, flat.numel()), dtype=torch.int32, device=flat.device)
    for part in flat.split(_CHUNK):
        bits = part.float().view(torch.int32)
        yield bits, torch.bitwise_right_shift(bits, 16, out=buffer[: bits.numel()]).add_(_ZERO)


def _flip_negative(bits: Tensor) -> Tensor:
    """The bits of floats as int32 -> whole numbers in the floats' order; and back."""
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


def _count_lower(flat: Tensor, found: Tensor) -> Tensor:
    """How many values have `found[k]` as upper half (in order, 0..65535) and i as lower: [k * 65536 + i]."""
    counts = torch.zeros(len(found) * _HALF, dtype=torch.int64, device=flat.device)
    row = torch.full((_HALF,), -1, dtype=torch.int32, device=flat.device)
    row[torch.where(found < _ZERO, _ZERO - 1 - found, found)] = torch.arange(len(found)).to(row)
    wanted, mask = row >= 0, torch.empty(min(_CHUNK, flat.numel()), dtype=torch.bool, device=flat.device)
    for bits, upper in _halves(flat):
        picked = bits[torch.index_select(wanted, 0, upper, out=mask[: bits.numel()])]
        rows = row.index_select(0, (picked >> 16) + _ZERO)
        counts += torch.bincount(rows * _HALF + _flip_negative(picked) % _HALF, minlength=len(counts))
    return counts
