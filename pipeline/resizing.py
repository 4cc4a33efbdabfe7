"""Frames of the model's size on their way to the size that is wanted."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ..images.alpha import premultiplied, straight
from ..tiling.resample import Resampler

_BYTES = 2 << 20  # of rows that are worked on at once: several times as much is taken on the way


class FrameResizer:
    """One frame, whose last channel is alpha if it `has_alpha`. Rows go in as they become known, from wherever they
    lie, and come out as they are to be, within 0..1, on the resampler's device.

    Colours count by their alpha, so that what is transparent does not reach over an edge.
    """

    def __init__(self, resampler: Resampler, has_alpha: bool) -> None:
        self._resampler, self._frame = resampler, resampler.begin()
        self._weighted = has_alpha and not resampler.resampling.moves_only

    def add(self, rows: Tensor) -> Iterator[tuple[int, Tensor]]:
        """Take the next rows [h, W, C]; give (number of the first new row, new rows [n, width, C] float32) in order."""
        _, width, channels = rows.shape
        widest = max(width, self._resampler.resampling.columns.total)
        for some in rows.split(max(1, _BYTES // (4 * channels * widest))):
            inside = some.to(self._resampler.device, torch.float32).clamp(0, 1)
            for first, new in self._frame.add(premultiplied(inside) if self._weighted else inside):
                yield first, (straight(new) if self._weighted else new).clamp(0, 1)

    def whole(self, frame: Tensor) -> Iterator[tuple[int, Tensor]]:
        """As `add`, for all of the frame [H, W, C], whose edges may fit together."""
        return self.add(self._resampler.pad(frame))
