"""Frames made another size while they come, row by row: of a frame there are never more than the rows that a filter
still needs.

Rows are made as wide as they are to be at once, by one product for each band of columns, and wait for as many as a band
of new rows is made of. That is a fraction of what the model takes, on whatever device: a filter that visits its pixels
one by one would be several times as slow.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from .filters import Band, bands, reach
from .fit import Resampling, Sampling
from .pad import WrapPadding

_ROWS = 64  # that are filtered at once


class Resampler:
    """Makes frames another size as `resampling` says, on `device`, where it holds the weights."""

    def __init__(self, resampling: Resampling, device: torch.device) -> None:
        self.resampling, self.device = resampling, device
        self._padding = WrapPadding(*(self._margin(axis) for axis in (resampling.rows, resampling.columns)))
        self.rows = self._bands(resampling.rows, self._padding.rows, device)
        self.columns = self._bands(resampling.columns, self._padding.columns, device)

    def begin(self) -> FrameResampler:
        """For one more frame, whose rows come one after the other. Of one that is tileable: see `pad`."""
        return FrameResampler(self.rows, self.columns)

    def pad(self, frame: Tensor) -> Tensor:
        """`frame` [H, W, C] with what its edges have on their other sides, where it is tileable: so it is to come."""
        return self._padding.pad(frame)

    def _margin(self, axis: Sampling) -> int:
        return reach(self.resampling.resample, axis.ratio) if axis.wraps else 0

    def _bands(self, axis: Sampling, margin: int, device: torch.device) -> list[Band]:
        found = bands(axis, self.resampling.resample, margin)
        return [Band(band.start, band.stop, band.weights.to(device)) for band in found]


class FrameResampler:
    """A frame on its way through a `Resampler`, by the bands of its `rows` and `columns`."""

    def __init__(self, rows: list[Band], columns: list[Band]) -> None:
        self._rows, self._columns = rows, columns
        self._made = self._next = 0  # new rows, bands of them
        self._seen = 0  # rows that came
        self._kept: Tensor | None = None  # the last of them, [h, C * width]

    @property
    def kept_bytes(self) -> int:
        """Of the rows that wait."""
        return self._kept.nbytes if self._kept is not None else 0

    def add(self, rows: Tensor) -> Iterator[tuple[int, Tensor]]:
        """Take the frame's next rows [h, W, C] float32; give (number of the first new row, new rows [n, width, C]),
        as far as they can be known by now."""
        for some in rows.split(_ROWS):
            self._keep(some)
            while self._next < len(self._rows) and self._rows[self._next].stop <= self._seen:
                yield self._give(rows.shape[2])

    def _keep(self, rows: Tensor) -> None:
        """What later bands need of the rows that are there and of `rows`, as wide as they are to be."""
        needed = self._rows[self._next].start if self._next < len(self._rows) else self._seen + len(rows)
        kept = [] if self._kept is None else [self._kept[max(0, needed - self._seen + len(self._kept)) :]]
        new = rows[max(0, needed - self._seen) :]
        self._seen += len(rows)
        if len(new):
            kept.append(self._narrowed(new))
        self._kept = torch.cat(kept) if len(kept) > 1 else kept[0] if kept else None

    def _narrowed(self, rows: Tensor) -> Tensor:
        """Rows [h, W, C] made as wide as they are to be, [h, C * width]."""
        lines = rows.permute(0, 2, 1).reshape(-1, rows.shape[1])  # [h * C, W]
        made = [lines[:, band.start : band.stop] @ band.weights.T for band in self._columns]
        return torch.cat(made, dim=1).view(len(rows), -1)

    def _give(self, channels: int) -> tuple[int, Tensor]:
        """The next band of new rows, all of whose old ones are there."""
        assert self._kept is not None
        band, first, top = self._rows[self._next], self._made, self._seen - len(self._kept)
        old = self._kept[max(0, band.start - top) : max(0, band.stop - top)]
        new = (band.weights @ old).view(len(band.weights), channels, -1)
        self._next, self._made = self._next + 1, first + len(new)
        return first, new.permute(0, 2, 1)
