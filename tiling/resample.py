"""Frames made another size while they come, row by row: of a frame there are never more than the rows that a filter
still needs.

Rows are made as wide as they are to be at once, by one product for all bands of columns, and wait for as many as a band
of new rows is made of. That is a fraction of what the model takes, on whatever device; and few operations, as each one
waits for all of torch's threads, which on a busy machine takes longer than the work.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from .filters import Bands, bands_of, reach
from .fit import Resampling, Sampling
from .pad import WrapPadding


class Resampler:
    """Makes frames another size as `resampling` says, on `device`, where it holds the weights."""

    def __init__(self, resampling: Resampling, device: torch.device) -> None:
        self.resampling, self.device = resampling, device
        self._padding = WrapPadding(*(self._margin(axis) for axis in (resampling.rows, resampling.columns)))
        self._rows = self._bands(resampling.rows, self._padding.rows)
        self._columns = self._bands(resampling.columns, self._padding.columns)

    def begin(self) -> FrameResampler:
        """For one more frame, whose rows come one after the other. Of one that is tileable: see `pad`."""
        return FrameResampler(self._rows, self._columns)

    def pad(self, frame: Tensor) -> Tensor:
        """`frame` [H, W, C] with what its edges have on their other sides, where it is tileable: so it is to come."""
        return self._padding.pad(frame)

    def _margin(self, axis: Sampling) -> int:
        return reach(self.resampling.resample, axis.ratio) if axis.wraps else 0

    def _bands(self, axis: Sampling, margin: int) -> Bands:
        bands = bands_of(axis, self.resampling.resample, margin)
        return bands._replace(weights=bands.weights.to(self.device))


class FrameResampler:
    """A frame on its way through a `Resampler`, by the bands of its `rows` and `columns`."""

    def __init__(self, rows: Bands, columns: Bands) -> None:
        self._rows, self._columns = rows, columns
        self._given = 0  # bands of new rows
        self._seen = 0  # rows that came
        self._kept: Tensor | None = None  # the last of them, [h, C * width]

    @property
    def kept_bytes(self) -> int:
        """Of the rows that wait."""
        return self._kept.nbytes if self._kept is not None else 0

    def add(self, rows: Tensor) -> Iterator[tuple[int, Tensor]]:
        """Take the frame's next rows [h, W, C] float32; give (number of the first new row, new rows [n, width, C]),
        as far as they can be known by now."""
        self._keep(rows)
        ready = sum(start + self._rows.pixels <= self._seen for start in self._rows.starts) - self._given
        if ready:
            yield self._give(ready, rows.shape[2])

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
        new = torch.bmm(old, weights.mT)  # [bands, h * C, n]
        return new.transpose(0, 1).reshape(len(lines), -1)[:, :total].reshape(len(rows), -1)

    def _give(self, count: int, channels: int) -> tuple[int, Tensor]:
        """The next `count` bands of new rows, whose old ones are all there."""
        assert self._kept is not None
        total, pixels, starts, weights = self._rows
        begin, end, top = self._given, self._given + count, self._seen - len(self._kept)
        old = torch.stack([self._kept[start - top : start - top + pixels] for start in starts[begin:end]])
        new = torch.bmm(weights[begin:end], old)  # [count, n, C * width]
        first, self._given = begin * weights.shape[1], end
        return first, new.view(-1, channels, self._columns.total)[: total - first].permute(0, 2, 1)
