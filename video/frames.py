"""A film's frames as the engine reads and writes them: few of them at once, however many there are."""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .queues import ByteQueue

_MORE = 64  # frames that a film of more than it said is taken to have left


@dataclass(frozen=True)
class ReadFrame:
    """Pixels [H, W, C], bytes or float32 of 0..1, that stand at `pts` and last `duration` ticks. If it `repeats`, they
    are those of the frame before. Frames of another `segment` are of another run of the engine, so that nothing of one
    segment has a part in another."""

    pixels: NDArray[Any]
    pts: int
    duration: int
    repeats: bool = False
    segment: int = 0

    @property
    def size(self) -> tuple[int, int]:
        """(height, width)"""
        return self.pixels.shape[0], self.pixels.shape[1]


@dataclass(frozen=True)
class MadeFrame:
    """Upscaled pixels [H, W, C] float32 of 0..1 in memory of our own, that stand at `pts` and last `duration` ticks.
    None: those of the frame before once more."""

    pixels: Tensor | None
    pts: int
    duration: int

    @property
    def nbytes(self) -> int:
        """Of memory that it holds."""
        return 0 if self.pixels is None else self.pixels.nbytes


class Frames(Protocol):
    """Where read frames come from: a `ByteQueue`, say."""

    def get(self) -> ReadFrame | None:
        """The next one; None after the last."""
        ...

    def done(self, size: int) -> None:
        """One of so many bytes is not needed any more."""


class FrameReading:
    """The frames that come out of `frames`, as far as somebody looked. `expected`: how many are to come; `alphas`: of
    the first ones, once they are known."""

    def __init__(self, frames: Frames, expected: int) -> None:
        self._frames = frames
        self.next: ReadFrame | None = None
        self.alphas: list[Tensor] | None = None
        self.expected, self.read = expected, 0
        self.advance()

    def advance(self) -> ReadFrame | None:
        """The next frame; None after the last one. `next` is the one after it, from now on."""
        taken, self.next = self.next, self._frames.get()
        self.read += taken is not None
        return taken

    def let_go(self, frame: ReadFrame) -> None:
        """It is not needed any more."""
        self._frames.done(frame.pixels.nbytes)


class FilmSource:
    """A `FrameSource` of all frames of one size, and of as many channels, that `reading` has next, in one segment. So
    many as `ahead` are read before the one that is asked for, so that the end is known in time. `rate` is frames a
    second on average."""

    device = torch.device("cpu")

    def __init__(self, reading: FrameReading, ahead: int, rate: float | None) -> None:
        assert reading.next is not None
        self._reading, self._ahead, self.rate = reading, ahead, rate
        self.size, self.channels = reading.next.size, reading.next.pixels.shape[2]
        self._segment = reading.next.segment
        self._frames: dict[int, ReadFrame] = {}
        self._times: dict[int, tuple[int, int]] = {}  # kept longer: there may be passes between
        self._read = 0
        self._reach(ahead)

    def __len__(self) -> int:
        if self._ends():
            return self._read
        return max(self._read + self._reading.expected - self._reading.read, self._read + _MORE)

    def frame(self, index: int) -> Tensor:
        self._reach(index + self._ahead)
        pixels = torch.from_numpy(self._frames[index].pixels)
        return pixels.float().div_(255) if pixels.dtype == torch.uint8 else pixels.clamp(0, 1)

    def alphas(self) -> Iterable[Tensor]:
        """Those of the frames that are read before the first of all is computed: a film is as it begins."""
        if self._reading.alphas is None:
            self._reading.alphas = [self.frame(index)[..., -1].clone() for index in [*self._frames]]
        return self._reading.alphas

    def repeats(self, index: int) -> bool:
        self._reach(index + self._ahead)
        return index > 0 and self._frames[index].repeats

    def release(self, index: int) -> None:
        self._reading.let_go(self._frames.pop(index))

    def times(self, index: int) -> tuple[int, int]:
        """Where frame `index`, which is finished, stands, and how long it lasts, in ticks. Asked for once."""
        return self._times.pop(index)

    def _reach(self, index: int) -> None:
        while self._read <= index and not self._ends():
            frame = self._reading.advance()
            assert frame is not None
            self._frames[self._read] = frame
            self._times[self._read] = frame.pts, frame.duration
            self._read += 1

    def _ends(self) -> bool:
        following = self._reading.next
        shape = (*self.size, self.channels)
        return following is None or following.pixels.shape != shape or following.segment != self._segment


class FilmSink:
    """A `FrameSink` that hands finished frames [H, W, C] = `shape` on into `made`, with the times of `source`'s, after
    `finished` saw them. Memory that comes back through `free` is used again."""

    device = torch.device("cpu")

    def __init__(
        self,
        source: FilmSource,
        made: ByteQueue[Any],
        shape: tuple[int, int, int],
        free: queue.SimpleQueue[Tensor],
        finished: Callable[[Tensor | None], None],
    ) -> None:
        self._source, self._made, self._shape, self._free, self._finished = source, made, shape, free, finished
        self._frames: dict[int, Tensor] = {}
        self.held_bytes = int(np.prod(shape)) * 4

    def frame(self, index: int) -> Tensor:
        if index not in self._frames:
            self._frames[index] = self._memory()
        return self._frames[index]

    def finish(self, index: int) -> None:
        self._hand_on(MadeFrame(self._frames.pop(index), *self._source.times(index)))

    def repeat(self, index: int) -> None:
        self._hand_on(MadeFrame(None, *self._source.times(index)))

    def _hand_on(self, frame: MadeFrame) -> None:
        self._finished(frame.pixels)
        self._made.put(frame, frame.nbytes)

    def _memory(self) -> Tensor:
        """That of an earlier frame, where it has the same shape."""
        with suppress(queue.Empty):
            while (used := self._free.get_nowait()).shape != self._shape:
                pass  # another run's: let go of
            return used
        with torch.inference_mode(False):
            return torch.empty(self._shape)
