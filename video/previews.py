"""Frames that are shown while a film is computed."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .report import FilmProgress

_BETWEEN = 2.0  # seconds
_SIDE = 512  # pixels, nearly


class Previews:
    """Every two seconds a frame [H, W, 3], turned by `rotation` degrees counterclockwise as its film is, and small, for
    `show`."""

    def __init__(self, show: Callable[[NDArray[np.uint8]], Any], rotation: int) -> None:
        self._show, self._quarters = show, rotation // 90 % 4
        self._next = time.monotonic() + _BETWEEN

    def tell(self, progress: FilmProgress) -> None:
        """There is a frame more."""
        if progress.frame is None or time.monotonic() < self._next:
            return
        step = math.ceil(max(progress.frame.shape[:2]) / _SIDE)
        small = progress.frame[::step, ::step, :3].clamp(0, 1).mul(255).round().byte().numpy()
        self._show(np.ascontiguousarray(np.rot90(small, self._quarters)))
        self._next = time.monotonic() + _BETWEEN
