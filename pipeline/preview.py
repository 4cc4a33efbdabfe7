"""How a result looks while it is made, small, for who looks at the run: it fills in as tiles finish.

Nothing of full size is touched but the values that are seen, and these only of a frame that will be shown: of what is
quick there is no picture, and of many frames there is one a second.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .monitor import Monitor

SIDE = 512  # pixels along the longest side, at most
QUICK = 2.0  # seconds: of a run that takes less there is no picture
_EMPTY = 24  # of 255: where no tile is yet
_SOON = 1.0  # seconds: a frame that is whole by then is shown when it is


class Spot(NamedTuple):
    """Where a tile lies: in which `frame`, of `size` (height, width) pixels of the result, with its `corner` (top,
    left). `channel` is the one that it is of, None: all of them. After it so many tiles of the frame that are seen are
    `left`."""

    frame: int
    size: tuple[int, int]
    corner: tuple[int, int]
    channel: int | None
    left: int


class Durations(NamedTuple):
    """What all of a run, and a tile of it, is expected to take, in seconds."""

    run: float
    tile: float


class Preview:
    """Of one pass of a run."""

    def __init__(self, monitor: Monitor) -> None:
        self._monitor = monitor
        self._frame, self._shown = -1, False
        self._canvas: NDArray[np.uint8] | None = None
        self._waiting: list[tuple[Spot, Tensor]] = []  # to be put into it
        self._no_room = False

    def tile(self, spot: Spot, tile: Tensor, durations: Durations) -> None:
        """The tile [C, h, w] of the result is as it stays. Where there is no memory for pictures there are none: the
        run goes on as if nobody looked."""
        if self._no_room:
            return
        picture = None
        try:
            picture = self._after(spot, tile, durations)
        except Exception as error:  # torch has several types for a lack of memory
            if not self._monitor.is_out_of_memory(error):
                raise
            self._no_room, self._canvas = True, None
            self._waiting.clear()
        if picture is not None:  # outside: what the host raises is its own
            self._monitor.show(picture)

    def _after(self, spot: Spot, tile: Tensor, durations: Durations) -> NDArray[np.uint8] | None:
        """What is to be shown after a tile, if anything."""
        now = self._monitor.clock()
        if spot.frame != self._frame:
            self._canvas, self._frame, self._shown = None, spot.frame, False
            self._waiting.clear()
        if self._canvas is None:
            rest = durations.tile * spot.left
            if durations.run < QUICK or now + rest < self._monitor.picture_due:
                return None  # it would not be seen
            step = _step(spot.size)
            small = [-(-side // step) for side in spot.size]
            self._canvas = np.full((*small, 3), _EMPTY, np.uint8)
        self._waiting.append((spot, _reduced(spot, tile)))
        due = now >= self._monitor.picture_due and durations.tile * spot.left >= _SOON
        if due or (spot.left == 0 and (self._shown or now >= self._monitor.picture_due)):
            self._shown = True
            return self._painted(self._canvas)
        return None

    def _painted(self, canvas: NDArray[np.uint8]) -> NDArray[np.uint8]:
        for spot, small in self._waiting:
            step = _step(spot.size)
            top, left = (-(-side // step) for side in spot.corner)
            values = torch.nan_to_num(small.float()).clamp(0, 1).mul(255).round().byte().cpu().numpy()
            place = canvas[top : top + values.shape[1], left : left + values.shape[2]]
            seen = values.transpose(1, 2, 0)[: place.shape[0], : place.shape[1]]
            if spot.channel is None:
                place[:] = seen
            else:
                place[..., spot.channel] = seen[..., 0]
        self._waiting.clear()
        return canvas.copy()


def _reduced(spot: Spot, tile: Tensor) -> Tensor:
    """Of a tile the values that are seen, a copy: the others are let go of."""
    step = _step(spot.size)
    top, left = (-side % step for side in spot.corner)
    return tile[:3, top::step, left::step].clone()


def _step(size: tuple[int, int]) -> int:
    """Every how many pixels one is seen."""
    return math.ceil(max(size) / SIDE)
