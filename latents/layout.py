"""Between what goes along ComfyUI's LATENT wires and the frames [F, h, w, C] that a network takes.

A wire has [B, C, H, W], of films [B, C, T, H, W], and of Flux2 128 channels, which are 32 of two rows and two columns
each.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from .any_scale import enlarged

_FOLDED = 2  # rows and columns that are folded into channels
_CHANNELS_FOLDED = _FOLDED**2
_FLUX2 = 32  # channels before they are folded; sixteen of Flux are no four of SD's


@dataclass(frozen=True)
class Layout:
    """How samples lie on the wire: `shape` as it came; `folded` as Flux2's."""

    shape: tuple[int, ...]
    folded: bool

    @property
    def frames(self) -> int:
        return self.shape[0] * (self.shape[2] if len(self.shape) == 5 else 1)

    def result_size(self, scale: float) -> tuple[int, int]:
        """(height, width) of what the network is to give for results `scale` times as large on the wire."""
        more = _FOLDED if self.folded else 1
        return enlarged(self.shape[-2], scale) * more, enlarged(self.shape[-1], scale) * more

    def to_frames(self, samples: Tensor) -> Tensor:
        """Samples as on the wire -> [F, h, w, C], a view where that is possible."""
        images = samples.movedim(1, 2).flatten(0, 1) if samples.ndim == 5 else samples
        if self.folded:
            images = F.pixel_shuffle(images, _FOLDED)
        return images.permute(0, 2, 3, 1)

    def to_wire(self, frames: Tensor) -> Tensor:
        """Frames [F, h, w, C] of whatever size -> samples as on the wire."""
        images = frames.permute(0, 3, 1, 2)
        if self.folded:
            images = F.pixel_unshuffle(images, _FOLDED)
        if len(self.shape) == 5:
            images = images.unflatten(0, (self.shape[0], self.shape[2])).movedim(2, 1)
        return images.contiguous()


def layout_of(shape: tuple[int, ...], channels: int) -> Layout | None:
    """How samples of this shape, of four or five dimensions, lie on the wire for a network of so many `channels`; None
    where that is for others."""
    if shape[1] == channels:
        return Layout(shape, folded=False)
    folded = channels == _FLUX2 and shape[1] == channels * _CHANNELS_FOLDED
    return Layout(shape, folded=True) if folded else None
