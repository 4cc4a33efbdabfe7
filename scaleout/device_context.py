"""What one of several devices that share a run is given: its own memory, and of the user only whether to stop."""

from __future__ import annotations

import threading

import numpy as np
from numpy.typing import NDArray

from ..api.context import RunContext, Switches


class Halted(Exception):  # noqa: N818  # no error
    """The run that a device had a share of is over, in whatever way."""


class DeviceContext:
    """A `RunContext` around `context`, that of the device of this `number`. `share`: how much of what it is at is done;
    `pixels_after`: input pixels that it will have to do after that, about. Whoever has all of the run speaks for it.
    `alone`: no other device takes of the memory that this one computes in."""

    looked_at = texts_stay = False
    peers: tuple[RunContext, ...] = ()

    def __init__(self, context: RunContext, number: int, halt: threading.Event, alone: bool) -> None:
        self.number = number
        self.device, self.cache_folder, self.alone = context.device, context.cache_folder, alone
        self.output_device, self.output_dtype = context.output_device, context.output_dtype
        self.switches = getattr(context, "switches", Switches())
        self.make_resident, self.release_cached = context.make_resident, context.release_cached
        self.take_away, self.room_beside = context.take_away, context.room_beside
        self.free_bytes, self.peak_bytes = context.free_bytes, context.peak_bytes
        self.is_out_of_memory = context.is_out_of_memory
        self._halt, self.share, self.pixels_after = halt, 0.0, 0

    def progress(self, done: float, total: int) -> None:
        self.share = done / total

    def say(self, text: str) -> None:
        """Whoever has all of the run does."""

    def show(self, picture: NDArray[np.uint8]) -> None:
        """It is a part of what is to be seen."""

    def raise_if_interrupted(self) -> None:
        if self._halt.is_set():
            raise Halted
