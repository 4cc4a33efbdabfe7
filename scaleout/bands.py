"""A picture in bands, one below the other, for devices that share it where there are fewer pictures than devices."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ..api.model_info import ModelInfo
from ..pipeline.frame_io import FrameSink, FrameSource
from ..pipeline.resizing import FrameResizer
from ..tiling.blend import TileBlender
from ..tiling.fit import Resampling
from ..tiling.plan import TilePlan, plan_bands
from ..tiling.resample import Resampler
from .shares import HeldFrames, HeldResults, Share, known_alphas

_FLOAT = 4  # bytes
_LITTLE_MORE = 1.1  # times the work of one band for each device: so much more are bands that slow devices get fewer of
_WORTH_IT = 0.8  # of the picture: a band that is more saves too little


@dataclass(frozen=True)
class Banding:
    """How each picture is cut: the tiles of `plan` are bands, enlarged `scale` times, and then made another size as
    `resampling` says."""

    plan: TilePlan
    scale: int
    resampling: Resampling | None

    def bytes_beside(self, channels: int) -> int:
        """What its bands take in main memory until they are put together, if all of them were there at once."""
        return int(self.plan.pixels * self.scale**2 * channels * _FLOAT)


def banding(
    size: tuple[int, int], info: ModelInfo, overlap: int, devices: int, resampling: Resampling | None
) -> Banding | None:
    """How a picture of `size` (height, width) is cut for so many devices, into bands that share at least `overlap`
    rows: one for each, or two, where that hardly costs more. None where it is too small."""
    one, two = (plan_bands(*size, info, count, overlap) for count in (devices, 2 * devices))
    if one is None or one.rows.tile > _WORTH_IT * size[0]:
        return None
    plan = two if two and 2 * two.rows.tile <= _LITTLE_MORE * one.rows.tile else one
    return Banding(plan, info.scale, resampling)


class BandShares:
    """The frames of a source, each in bands as `cut` says, which are put together in order. A frame that is the one
    before is not handed out."""

    in_words: Literal["frames", "parts"] = "parts"
    least = 1

    def __init__(self, ways: tuple[FrameSource, FrameSink], cut: Banding) -> None:
        self._source, self._sink = ways
        self._cut, self._count = cut, cut.plan.count
        self._alphas = known_alphas(self._source)
        self._resampler = Resampler(cut.resampling, torch.device("cpu")) if cut.resampling else None
        repeats = [self._source.repeats(number) for number in range(len(self._source))]
        self._frames = [number for number, repeated in enumerate(repeats) if not repeated]
        self._again = deque(number for number, repeated in enumerate(repeats) if repeated)
        self._cut_now: tuple[int, Tensor] | None = None  # the frame that is being cut
        self._results: dict[int, Tensor] = {}  # of bands that are done before those above them
        self._given = self._placed = self._finished = self.done = self.still = 0
        self._blender, self._resizer = self._begin()

    @property
    def total(self) -> int:
        return len(self._frames) * self._count

    @property
    def room(self) -> int:
        return self.total - self._given

    @property
    def is_over(self) -> bool:
        return self._placed == self.total and not self._again

    def next(self, most: int) -> Share | None:
        if not self.room:
            return None
        at, band = divmod(self._given, self._count)
        self._given += 1
        rows, number = self._cut.plan.rows, self._frames[at]
        start, stop = rows.origins[band], min(rows.stop(band), rows.size)
        source = HeldFrames(self._source, [self._frame(number)[start:stop]], self._alphas)
        scale, width = self._cut.scale, self._source.size[1]
        with torch.inference_mode(False):
            result = torch.empty((stop - start) * scale, width * scale, self._source.channels)
        return Share([number], source, _Band([result], self._given - 1, self._sink.held_bytes), band)

    def read_ahead(self) -> bool:
        return False

    def put(self, share: Share) -> None:
        assert isinstance(share.sink, _Band)
        self._results[share.sink.number] = share.sink.frames[0]
        self.done += 1

    def settle(self) -> bool:
        if self._again and self._again[0] == self._finished:
            self._sink.repeat(self._again.popleft())
            self._finished += 1
            self.still += 1
            return True
        if self._placed not in self._results:
            return False
        self._add(self._results.pop(self._placed))
        self._placed += 1
        return True

    def _frame(self, number: int) -> Tensor:
        """Read once, for all of its bands."""
        if self._cut_now is None or self._cut_now[0] != number:
            self._cut_now = number, self._source.frame(number).cpu()
            self._source.release(number)
        return self._cut_now[1]

    def _add(self, band: Tensor) -> None:
        """The next band into its frame."""
        at, row = divmod(self._placed, self._count)
        number = self._frames[at]
        finished = self._blender.add(row, 0, band.permute(2, 0, 1))
        assert finished is not None
        first, rows = finished
        frame = self._sink.frame(number)
        if self._resizer is None:
            frame[first : first + len(rows)].copy_(rows)
        else:
            for first_new, new in self._resizer.add(rows):
                frame[first_new : first_new + len(new)].copy_(new)
        if row + 1 == self._count:
            self._sink.finish(number)
            self._finished = number + 1
            self._blender, self._resizer = self._begin()

    def _begin(self) -> tuple[TileBlender, FrameResizer | None]:
        """For one more frame."""
        has_alpha = self._source.channels in (2, 4)
        resizer = FrameResizer(self._resampler, has_alpha) if self._resampler else None
        return TileBlender(self._cut.plan, self._cut.scale), resizer


class _Band(HeldResults):
    """`number` counts all bands of all frames."""

    def __init__(self, frames: Sequence[Tensor], number: int, promised: int) -> None:
        super().__init__(frames, promised)
        self.number = number
