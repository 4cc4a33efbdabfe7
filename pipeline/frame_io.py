"""Where frames come from and where they go: tensors here, those between two passes in relay.py, films in video/."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from typing import Protocol

import torch
from torch import Tensor


class FrameSource(Protocol):
    """Frames of one size, read in order. One that has to be computed again, for want of memory say, is read again."""

    size: tuple[int, int]
    """(height, width) in pixels."""
    channels: int
    """1 grey, 2 grey + alpha, 3 RGB, 4 RGBA."""
    device: torch.device
    """Where the frames lie."""
    rate: float | None
    """Frames a second, on average, where there is such a thing."""

    def __len__(self) -> int:
        """How many there are; at least one. Where that is not known before all are read: about how many, and exactly
        from when the end is as near as a run's `batch_size` to the last frame that was read, or to the first one."""
        ...

    def frame(self, index: int) -> Tensor:
        """Frame `index` [H, W, C], a float type, 0..1."""
        ...

    def alphas(self) -> Iterable[Tensor]:
        """The alphas [H, W] of frames, of those with some: enough of them to know how all are best enlarged."""
        ...

    def repeats(self, index: int) -> bool:
        """Whether frame `index` is the one before, bit for bit. Where that is not known it may say no."""
        ...

    def release(self, index: int) -> None:
        """Frame `index` is not read again."""


class FrameSink(Protocol):
    """Where upscaled frames are written, row by row, and finished in order."""

    device: torch.device
    """Where the frames are to lie."""
    held_bytes: int
    """Bytes on `device` that are promised to frames, and perhaps not yet missing from what is free."""

    def frame(self, index: int) -> Tensor:
        """Where frame `index` goes, [H*s, W*s, C] in the type that is wanted; its rows are contiguous."""
        ...

    def finish(self, index: int) -> None:
        """Every pixel of frame `index` is in its place."""

    def repeat(self, index: int) -> None:
        """Frame `index` is the one before, which is finished, once more; it is finished with this."""


class TensorSource:
    """The frames of `image` [B, H, W, C]."""

    def __init__(self, image: Tensor) -> None:
        self._image, self._count = image, len(image)
        self.rate: float | None = None
        self._repeats: dict[int, bool] = {}
        self.size, self.channels, self.device = (image.shape[1], image.shape[2]), image.shape[3], image.device

    def __len__(self) -> int:
        return self._count  # asked for often; a tensor takes its time to tell

    def frame(self, index: int) -> Tensor:
        return self._image[index]

    def alphas(self) -> Iterable[Tensor]:
        return self._image[..., -1]

    def repeats(self, index: int) -> bool:
        if index == 0:
            return False
        if index not in self._repeats:
            if self.device.type == "cpu":  # which stops at the first difference
                self._repeats[index] = torch.equal(self._image[index], self._image[index - 1])
            else:  # the host waits once for all of them
                same = [(now == before).all() for before, now in pairwise(self._image)]
                self._repeats = dict(enumerate(torch.stack(same).tolist(), start=1))
        return self._repeats[index]

    def release(self, index: int) -> None:
        """It is the caller's."""


class TensorSink:
    """Frames go into `tensor` [B, H*s, W*s, C]."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor, self.device, self.held_bytes = tensor, tensor.device, tensor.nbytes

    def frame(self, index: int) -> Tensor:
        return self.tensor[index]

    def finish(self, index: int) -> None:
        """It is where it stays."""

    def repeat(self, index: int) -> None:
        self.tensor[index].copy_(self.tensor[index - 1])
