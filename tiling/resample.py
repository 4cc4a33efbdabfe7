"""Frames made another size while they come, row by row: of a frame there are never more than the rows that a filter
still needs.

Rows are made as wide as they are to be at once, by one product for all bands of columns, and wait for as many as a band
of new rows is made of. That is a fraction of what the model takes, on whatever device; and few operations, as each one
waits for all of torch's threads, which on a busy machine takes longer than the work. Where a great many rows become few
they do not wait, but are added up.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from .filters import LONGEST_BAND, Bands, bands_of, reach
from .fit import Resampling, Sampling
from .pad import WrapPadding

_BYTES = 2 << 20  # of new rows, or of those that they are made of, at once; a band's, and one row, may be more
_MOST_CHANNELS, _FLOAT = 4, 4  # of a frame; bytes
_MOST_KEPT = 4 << 20  # bytes of rows that wait


class Resampler:
    """Makes frames another size as `resampling` says, on `device`, where it holds the weights."""

    def __init__(self, resampling: Resampling, device: torch.device) -> None:
        self.resampling, self.device = resampling, device
        self._padding = WrapPadding(*(self._margin(axis) for axis in (resampling.rows, resampling.columns)))
        most = max(1, _BYTES // (_MOST_CHANNELS * _FLOAT * resampling.columns.total))
        self._rows = self._bands(resampling.rows, self._padding.rows, most)
        self._columns = self._bands(resampling.columns, self._padding.columns)

    def begin(self) -> FrameResampler:
        """For one more frame, whose rows come one after the other. Of one that is tileable: see `pad`."""
        return FrameResampler(self.resampling, self._rows, self._columns)

    def pad(self, frame: Tensor) -> Tensor:
        """`frame` [H, W, C] with what its edges have on their other sides, where it is tileable: so it is to come."""
        return self._padding.pad(frame)

    def _margin(self, axis: Sampling) -> int:
        return reach(self.resampling.resample, axis.ratio) if axis.wraps else 0

    def _bands(self, axis: Sampling, margin: int, most: int = LONGEST_BAND) -> Bands:
        bands = bands_of(axis, self.resampling.resample, margin, most)
        return bands._replace(weights=bands.weights.to(self.device))


class FrameResampler:
    """A frame on its way through a `Resampler`, by the bands of its `rows` and `columns`."""

    def __init__(self, resampling: Resampling, rows: Bands, columns: Bands) -> None:
        self._resampling, self._rows, self._columns = resampling, rows, columns
        self._given = 0  # bands of new rows
        self._seen = 0  # rows that came
        self._kept: Tensor | None = None  # the last of them, [h, C * width]
        self._sums: dict[int, Tensor] = {}  # band -> what the rows before these have given to it, [n, C * width]

    @property
    def kept_bytes(self) -> int:
        """Of the rows that wait, and of those that are added up."""
        waiting = [] if self._kept is None else [self._kept]
        return sum(rows.nbytes for rows in (*waiting, *self._sums.values()))

    def add(self, rows: Tensor) -> Iterator[tuple[int, Tensor]]:
        """Take the frame's next rows [h, W, C] float32; give (number of the first new row, new rows [n, width, C]),
        as far as they can be known by now, some at a time."""
        axis = self._resampling.rows
        if not self._seen:
            yield from self._empty(range(axis.before), rows)
        self._keep(rows)
        ready = sum(start + self._rows.pixels <= self._seen for start in self._rows.starts)
        last = self._given < ready == len(self._rows.starts)
        while self._given < ready:
            first, new = self._give(ready, rows.shape[2])
            yield axis.before + first, new
        if last:
            yield from self._empty(range(axis.total - axis.after, axis.total), rows)
        self._add_up()

    def _empty(self, numbers: range, rows: Tensor) -> Iterator[tuple[int, Tensor]]:
        """New rows of such `numbers` that nothing of `rows` comes to."""
        width, channels = self._resampling.columns.total, rows.shape[2]
        most = max(1, _BYTES // (_FLOAT * width * channels))
        for first in numbers[::most]:
            yield first, rows.new_zeros(min(most, numbers.stop - first), width, channels)

    def _keep(self, rows: Tensor) -> None:
        """What later bands need of the rows that are there and of `rows`, as wide as they are to be."""
        left = self._rows.starts[self._given :]
        needed = left[0] if left else self._seen + len(rows)
        kept = [] if self._kept is None else [self._kept[max(0, needed - self._seen + len(self._kept)) :]]
        new = rows[max(0, needed - self._seen) :]
        self._seen += len(rows)
        if len(new):
            kept.append(self._narrowed(new))
        self._kept = torch.cat(kept) if len(kept) > 1 else kept[0] if kept else None

    def _narrowed(self, rows: Tensor) -> Tensor:
        """Rows [h, W, C] made as wide as they are to be, [h, C * width]."""
        total, pixels, starts, weights = self._columns
        lines = rows.permute(0, 2, 1).reshape(-1, rows.shape[1])  # [h * C, W]
        old = torch.stack([lines[:, start : start + pixels] for start in starts])
        new = _product(old, weights.mT)  # [bands, h * C, n]
        kept, axis = new.transpose(0, 1).reshape(len(lines), -1)[:, :total], self._resampling.columns
        wide = F.pad(kept, (axis.before, axis.after)) if axis.before or axis.after else kept
        return wide.reshape(len(rows), -1)

    def _give(self, ready: int, channels: int) -> tuple[int, Tensor]:
        """The next bands of new rows, some of the first `ready`, whose old ones are all there."""
        assert self._kept is not None
        total, pixels, starts, weights = self._rows
        begin, length = self._given, weights.shape[1]
        if begin in self._sums:
            end = begin + 1
            new = self._part(begin).add_(self._sums.pop(begin))
        else:
            most = _BYTES // (_FLOAT * max(pixels, length) * self._kept.shape[1])
            end, top = min(ready, begin + max(1, most)), self._seen - len(self._kept)
            old = torch.stack([self._kept[start - top : start - top + pixels] for start in starts[begin:end]])
            new = _product(weights[begin:end], old)  # [bands, n, C * width]
        first, self._given = begin * length, end
        return first, new.view(-1, channels, self._resampling.columns.total)[: total - first].permute(0, 2, 1)

    def _add_up(self) -> None:
        """Make of rows that wait what they give to new ones, where they are many, and those fewer."""
        starts, length = self._rows.starts, self._rows.weights.shape[1]
        if self._kept is None or self._kept.nbytes <= _MOST_KEPT:
            return
        begun = [band for band in range(self._given, len(starts)) if starts[band] < self._seen]
        if len(begun) * length >= len(self._kept):
            return
        for band in begun:
            part = self._part(band)
            self._sums[band] = self._sums[band].add_(part) if band in self._sums else part
        self._kept = None

    def _part(self, band: int) -> Tensor:
        """What the rows that wait give to a band of new ones, [n, C * width]."""
        assert self._kept is not None
        start, top = self._rows.starts[band], self._seen - len(self._kept)
        begin, end = max(start, top), min(start + self._rows.pixels, self._seen)
        weights = self._rows.weights[band : band + 1, :, begin - start : end - start]
        return _product(weights, self._kept[None, begin - top : end - top])[0]


def _product(a: Tensor, b: Tensor) -> Tensor:
    """[bands, n, k] times [bands, k, m], in float32 whatever a caller's autocast says."""
    with torch.autocast(a.device.type, enabled=False):
        return torch.bmm(a, b)
