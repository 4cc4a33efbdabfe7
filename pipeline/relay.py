"""From one pass of the model into the next: frames that one has finished and the other reads, few of them at once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from ..api.errors import ModelFailedError
from ..kernels.timing import Clock
from .forwards import ForwardFailedError
from .frame_io import FrameSource


class RelaySink:
    """Where a pass puts its frames, [H, W, C] = `shape` each. Those in `frames` are kept for the next one."""

    held_bytes = 0

    def __init__(self, shape: tuple[int, int, int], device: torch.device, dtype: torch.dtype) -> None:
        self.shape, self.device, self._dtype = shape, device, dtype
        self.frames: dict[int, Tensor] = {}
        self.repeated: set[int] = set()
        self._last: Tensor | None = None

    def frame(self, index: int) -> Tensor:
        if index not in self.frames:
            self.frames[index] = torch.empty(self.shape, device=self.device, dtype=self._dtype)
        return self.frames[index]

    def finish(self, index: int) -> None:
        """It waits until it is read."""
        self._last = self.frames[index]

    def repeat(self, index: int) -> None:
        assert self._last is not None
        self.frames[index] = self._last
        self.repeated.add(index)


class RelaySource:
    """The frames of `sink`, as many as were `given` to the first pass. `made` is the pass that puts them there: it goes
    on, frame by frame, as far as they are asked for.

    `clock` is `of_all` without the time that this took: what the pass that reads them takes by itself.
    """

    def __init__(self, sink: RelaySink, given: FrameSource, made: Iterator[int], of_all: Clock) -> None:
        (*size, self.channels), self.device = sink.shape, sink.device
        self.size, self.rate = (size[0], size[1]), given.rate
        self._sink, self._given, self._made, self._clock = sink, given, made, of_all
        self._there = 0  # frames that are finished
        self._seconds = 0.0

    def __len__(self) -> int:
        return len(self._given)

    def frame(self, index: int) -> Tensor:
        self._reach(index)
        return self._sink.frames[index]

    def repeats(self, index: int) -> bool:
        self._reach(index)
        return index in self._sink.repeated

    def _reach(self, index: int) -> None:
        """Let the pass before go on until it has made frame `index`."""
        began = self._clock()
        try:
            with torch.inference_mode():
                while self._there <= index:
                    self._there = next(self._made) + 1
        except ForwardFailedError as error:  # of the pass before: to this one no reason to compute in another way
            raise ModelFailedError(str(error)) from error
        finally:
            self._seconds += self._clock() - began

    def alphas(self) -> Iterable[Tensor]:
        """Those of the input: every pass treats alpha alike, and for all frames, of which none is there yet."""
        return self._given.alphas()

    def release(self, index: int) -> None:
        self._sink.frames.pop(index, None)
        self._sink.repeated.discard(index)

    def clock(self) -> float:
        return self._clock() - self._seconds
