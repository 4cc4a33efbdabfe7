"""What a run on several devices hands out: some of its frames, or parts of one, each with its place in the result."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from ..pipeline.frame_io import FrameSink, FrameSource, TensorSink, TensorSource

_MOST_FRAMES = 32  # in a share: what a share costs beside its frames is little then
_MOST_BYTES = 512 << 20  # of the frames that are not finished, where memory is taken for them
_AT_ONCE = 8  # frames that are read at once where they are in memory already
_IN_MAIN_MEMORY = torch.device("cpu")


@dataclass(frozen=True)
class Share:
    """What one device does at a time: all of `source` into `sink`. `frames` are their numbers among the run's; `row`:
    which part of the frame it is, from the top, where it is one."""

    frames: Sequence[int]
    source: FrameSource
    sink: FrameSink
    row: int | None = None


class Shares(Protocol):
    """What is to be done, handed out in order and taken back in any. Used by one thread, of which no call takes longer
    than a frame does to read, or to write."""

    in_words: Literal["frames", "parts"]
    """What it counts."""
    least: int
    """Of these in a share, where there are so many."""
    still: int
    """Frames that were the one before."""

    @property
    def total(self) -> int: ...

    @property
    def done(self) -> int:
        """How many are done, if not finished."""
        ...

    @property
    def room(self) -> int:
        """How many could be handed out before something has to be finished."""
        ...

    @property
    def is_over(self) -> bool:
        """Whether all are finished."""
        ...

    def next(self, most: int) -> Share | None:
        """The next of what was read, of at most so many; None where there is nothing, or nothing yet."""
        ...

    def read_ahead(self) -> bool:
        """Read on, a little, for shares to come; whether there was anything to read."""
        ...

    def put(self, share: Share) -> None:
        """`share` is done."""
        ...

    def settle(self) -> bool:
        """Put one thing that is done into its place, if its turn has come; whether it has."""
        ...


class HeldFrames:
    """A `FrameSource` of `frames` [H, W, C] that are there, of a `source` of more of them, which can be read once more
    where a device fails."""

    def __init__(self, source: FrameSource, frames: Sequence[Tensor], alphas: Sequence[Tensor]) -> None:
        self._frames, self._alphas = frames, alphas
        height, width, self.channels = self._frames[0].shape
        self.size, self.device, self.rate = (height, width), _IN_MAIN_MEMORY, source.rate

    def __len__(self) -> int:
        return len(self._frames)

    def frame(self, index: int) -> Tensor:
        return self._frames[index]

    def alphas(self) -> Iterable[Tensor]:
        """All that are known of the run's frames, so that all are enlarged in one way."""
        return self._alphas

    def repeats(self, index: int) -> bool:
        """Those that do are not handed out."""
        return False

    def release(self, index: int) -> None:
        """It may be read once more."""


class HeldResults:
    """A `FrameSink` into tensors [H, W, C] in main memory, of which so many bytes are promised to the run as a
    whole."""

    device = _IN_MAIN_MEMORY

    def __init__(self, frames: Sequence[Tensor], promised: int = 0) -> None:
        self.frames = frames
        self.held_bytes = max(promised, sum(frame.nbytes for frame in frames))

    def frame(self, index: int) -> Tensor:
        return self.frames[index]

    def finish(self, index: int) -> None:
        """They go on when all of them are done."""

    def repeat(self, index: int) -> None:
        self.frames[index].copy_(self.frames[index - 1])


class FrameShares:
    """Frames of a source, some at a time, for so many `devices`, each of which computes up to `batch` at once.

    They are finished in order. Where they come one after the other, as a film's, or go so, there is a limit to how many
    are read and not finished. A frame that is the one before is not handed out.
    """

    in_words: Literal["frames", "parts"] = "frames"

    def __init__(self, ways: tuple[FrameSource, FrameSink], devices: int, batch: int) -> None:
        self._source, self._sink = ways
        self.least, self._limit = batch, _limit(ways, devices, batch)
        self._alphas = known_alphas(self._source)
        self._in_memory = isinstance(self._source, TensorSource) and isinstance(self._sink, TensorSink)
        self._read: deque[tuple[int, Tensor]] = deque()  # and not handed out
        self._open: deque[tuple[int, bool]] = deque()  # frames that are not finished, and whether they repeat
        self._results: dict[int, Tensor] = {}  # those of them that are done
        self._at = self._finished = self._handed_in = self.still = 0

    @property
    def total(self) -> int:
        return len(self._source)

    @property
    def done(self) -> int:
        return self._handed_in + self.still

    @property
    def room(self) -> int:
        left = len(self._source) - self._at + len(self._read)
        return left if self._in_memory else min(left, self._limit - len(self._open) + len(self._read))

    @property
    def is_over(self) -> bool:
        return self._finished >= len(self._source)

    def next(self, most: int) -> Share | None:
        most = max(self.least, min(most, _MOST_FRAMES) // self.least * self.least)  # as batches of one device would be
        if not self._read or (len(self._read) < self.least and self._may_read()):
            return None
        there = len(self._read) // self.least * self.least or len(self._read)
        taken = [self._read.popleft() for _ in range(min(most, there))]
        numbers, frames = [number for number, _ in taken], [frame for _, frame in taken]
        places = HeldResults(self._places(numbers), self._sink.held_bytes)
        return Share(numbers, HeldFrames(self._source, frames, self._alphas), places)

    def read_ahead(self) -> bool:
        read = False
        for _ in range(_AT_ONCE if self._in_memory else 1):
            read |= len(self._read) < max(self.least, _MOST_FRAMES) and self._read_one()
        return read

    def put(self, share: Share) -> None:
        assert isinstance(share.sink, HeldResults)
        self._results.update(zip(share.frames, share.sink.frames, strict=True))
        self._handed_in += len(share.frames)

    def settle(self) -> bool:
        if not self._open:
            return False
        number, repeated = self._open[0]
        if repeated:
            self._sink.repeat(number)
        elif number in self._results:
            result = self._results.pop(number)
            if self._sink.device.type != "cpu":
                self._sink.frame(number).copy_(result)
            self._sink.finish(number)
        else:
            return False
        self._open.popleft()
        self._finished += 1
        self.still += repeated
        return True

    def _may_read(self) -> bool:
        there = self._at < len(self._source)  # it may turn out to have fewer
        return there and (self._in_memory or len(self._open) < self._limit)

    def _read_one(self) -> bool:
        """Read one more frame, unless it is the one before."""
        if not self._may_read():
            return False
        number, self._at = self._at, self._at + 1
        repeated = self._source.repeats(number)
        self._open.append((number, repeated))
        if not repeated:
            self._read.append((number, self._source.frame(number).to(_IN_MAIN_MEMORY)))
        self._source.release(number)  # a film's is read as a copy, and memory's stays
        return True

    def _places(self, numbers: Sequence[int]) -> list[Tensor]:
        """Where they go, or memory for them, where that is not main memory."""
        places = [self._sink.frame(number) for number in numbers]
        if self._sink.device.type == "cpu":
            return places
        return [torch.empty_like(place, device=_IN_MAIN_MEMORY) for place in places]


def _limit(ways: tuple[FrameSource, FrameSink], devices: int, batch: int) -> int:
    """Frames that are read and not finished: what all devices are at and as much again, as far as memory goes."""
    source, sink = ways
    of_one = sink.frame(0).nbytes + 4 * source.size[0] * source.size[1] * source.channels
    return max(devices * batch, min(2 * devices * max(batch, _MOST_FRAMES), _MOST_BYTES // of_one))


def known_alphas(source: FrameSource) -> tuple[Tensor, ...]:
    """Of a source whose frames have some: those that tell how all of them are best enlarged."""
    return tuple(source.alphas()) if source.channels in (2, 4) else ()
