"""Frames that are shown while a film is computed."""

from __future__ import annotations

import math
import time

import numpy as np

from ..api.context import RunContext
from ..pipeline.preview import QUICK, SIDE
from .report import FilmProgress

_BETWEEN = 1.0  # seconds


class Previews:
    """Every second a frame, turned by `rotation` degrees counterclockwise as its film is, and small, for who looks at
    what `context` shows."""

    def __init__(self, context: RunContext, rotation: int) -> None:
        self._context, self._quarters = context, rotation // 90 % 4
        self._next = time.monotonic() + QUICK

    def tell(self, progress: FilmProgress) -> None:
        """There is a frame more."""
        if progress.frame is None or not self._context.looked_at or time.monotonic() < self._next:
            return
        step = math.ceil(max(progress.frame.shape[:2]) / SIDE)
        small = progress.frame[::step, ::step, :3].clamp(0, 1).mul(255).round().byte().numpy()
        self._context.show(np.ascontiguousarray(np.rot90(small, self._quarters)))
        self._next = time.monotonic() + _BETWEEN
