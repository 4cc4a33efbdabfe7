"""A photograph of any size to measure with: no others can lie in a repository, so one is mirrored on and on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cudaspeed.images.files import read_image

from .harness import ROOT

EXAMPLE = ROOT / "examples" / "chelsea.png"
_STEP = 3  # pixels between one frame and the next


def photograph(height: int, width: int, frames: int = 1, file: Path = EXAMPLE) -> Tensor:
    """[frames, height, width, 3] float32 0..1: what `file` shows, mirrored at its edges until it is large enough, a
    little further to the right in every frame."""
    pixels = read_image(file).pixels
    colours = pixels[..., :3] if pixels.shape[2] > 2 else pixels[..., :1].repeat(3, axis=2)
    down, right = (max(0, side - have) for side, have in zip((height, width), colours.shape, strict=False))
    wide = np.pad(colours, ((0, down), (0, right + _STEP * (frames - 1)), (0, 0)), mode="symmetric")
    views = [wide[:height, k * _STEP : k * _STEP + width] for k in range(frames)]
    return torch.from_numpy(np.stack(views))
