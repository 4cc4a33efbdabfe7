"""What a run on several devices hands out: some of its frames, or parts of one, each with its place in the result."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from ..pipeline.frame_io import FrameSink, FrameSource

_MOST_FRAMES = 16  # in a share: further ones would only make the last shares of a run longer
_MOST_BYTES = 128 << 20  # of a share's frames, as far as they lie in memory that is taken for them
_TURNS = 4  # that each device has at least, where there are frames enough: slow ones then get fewer
_IN_MAIN_MEMORY = torch.device("cpu")


@dataclass(frozen=True)
class Share:
    """What one device does at a time: all of `source` into `sink`. `frames` are their numbers among the run's."""

    frames: Sequence[int]
    source: FrameSource
    sink: FrameSink


class Shares(Protocol):
    """What is to be done, handed out in order and taken back in any. Used by one thread."""

    done: int
    """Of `total`, frames or parts of frames."""
    still: int
    """Frames that were the one before."""

    in_words: Literal["frames", "parts"]
    """What it counts."""

    @property
    def total(self) -> int: ...

    def next(self) -> Share | None:
        """What is to be done next; None where there is nothing, or nothing yet."""
        ...

    def put(self, share: Share) -> None:
        """`share` is done: into its place with it."""
        ...


class HeldFrames:
    """A `FrameSource` of `frames` [H, W, C] that are there, of a `source` of more of them, which can be read once more
    where a device fails."""

    def __init__(self, source: FrameSource, frames: Sequence[Tensor], alphas: Sequence[Tensor]) -> None:
        self._frames, self._alphas = [frame.to(_IN_MAIN_MEMORY) for frame in frames], alphas
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
    """A `FrameSink` into tensors [H, W, C] in main memory."""

    device = _IN_MAIN_MEMORY

    def __init__(self, frames: Sequence[Tensor]) -> None:
        self.frames = frames
        self.held_bytes = sum(frame.nbytes for frame in frames)

    def frame(self, index: int) -> Tensor:
        return self.frames[index]

    def finish(self, index: int) -> None:
        """They go on when all of them are done."""

    def repeat(self, index: int) -> None:
        self.frames[index].copy_(self.frames[index - 1])


class FrameShares:
    """Frames of a source, some at a time, for so many `devices`, of which each computes up to `batch` at once. They are
    finished in order, and there are never more in work than a few shares for each device."""

    in_words: Literal["frames", "parts"] = "frames"

    def __init__(self, ways: tuple[FrameSource, FrameSink], devices: int, batch: int) -> None:
        self._source, self._sink = ways
        self._most = most_frames(ways, devices, batch)
        self._most_open = 2 * devices * self._most
        self._alphas = known_alphas(self._source)
        self._open: deque[tuple[int, bool]] = deque()  # frames that are not finished, and whether they repeat
        self._results: dict[int, Tensor] = {}  # those of them that are done
        self._at = self.done = self.still = 0

    @property
    def total(self) -> int:
        return len(self._source)

    def next(self) -> Share | None:
        while len(self._open) < self._most_open and self._at < len(self._source):
            numbers = self._take()
            self._finish()
            if numbers:
                frames = [self._source.frame(number) for number in numbers]
                return Share(
                    numbers, HeldFrames(self._source, frames, self._alphas), HeldResults(self._places(numbers))
                )
        return None

    def put(self, share: Share) -> None:
        assert isinstance(share.sink, HeldResults)
        self._results.update(zip(share.frames, share.sink.frames, strict=True))
        self._finish()

    def _take(self) -> list[int]:
        """The next frames, but for those that are the one before."""
        taken: list[int] = []
        for _ in range(self._most):
            if self._at < len(self._source):  # it may turn out to have fewer
                repeated = self._source.repeats(self._at)
                self._open.append((self._at, repeated))
                taken += [] if repeated else [self._at]
                self._at += 1
        return taken

    def _places(self, numbers: Sequence[int]) -> list[Tensor]:
        """Where they go, or memory for them, where that is not main memory."""
        places = [self._sink.frame(number) for number in numbers]
        if self._sink.device.type == "cpu":
            return places
        return [torch.empty_like(place, device=_IN_MAIN_MEMORY) for place in places]

    def _finish(self) -> None:
        """Those at the front that are done."""
        while self._open and (self._open[0][1] or self._open[0][0] in self._results):
            number, repeated = self._open.popleft()
            if repeated:
                self._sink.repeat(number)
            else:
                result = self._results.pop(number)
                if self._sink.device.type != "cpu":
                    self._sink.frame(number).copy_(result)
                self._sink.finish(number)
            self._source.release(number)
            self.done += 1
            self.still += repeated


def most_frames(ways: tuple[FrameSource, FrameSink], devices: int, batch: int) -> int:
    """In a share, at least what a device computes at once."""
    source, sink = ways
    result = sink.frame(0)
    of_one = result.nbytes + 4 * source.size[0] * source.size[1] * source.channels
    return max(batch, min(_MOST_FRAMES, len(source) // (_TURNS * devices), _MOST_BYTES // of_one), 1)


def known_alphas(source: FrameSource) -> tuple[Tensor, ...]:
    """Of a source whose frames have some: those that tell how all of them are best enlarged."""
    return tuple(source.alphas()) if source.channels in (2, 4) else ()
