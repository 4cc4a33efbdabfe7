"""Windows over pictures, also over such as were shifted round their edges, by torch's operations (Swin Transformer, Liu
et al., 2021, arXiv 2103.14030)."""

from __future__ import annotations

import torch
from torch import Tensor

_APART = -100.0  # what is added to the score of two pixels that were no neighbours before the shift


def in_windows(pixels: Tensor, window: tuple[int, int]) -> Tensor:
    """[N, h, w, ...] as [N * windows, pixels of one, ...], for windows of (rows, columns) that fill the picture."""
    (count, height, width, *channels), (rows, columns) = pixels.shape, window
    split = pixels.reshape(count, height // rows, rows, width // columns, columns, *channels).transpose(2, 3)
    return split.reshape(-1, rows * columns, *channels)


def from_windows(attended: Tensor, window: tuple[int, int], sides: tuple[int, int]) -> Tensor:
    """[N, h, w, C] of what `in_windows` gave, for pictures of `sides` (h, w)."""
    (rows, columns), (height, width) = window, sides
    split = attended.reshape(-1, height // rows, width // columns, rows, columns, attended.shape[-1]).transpose(2, 3)
    return split.reshape(-1, height, width, attended.shape[-1])


def apart(sides: tuple[int, int], window: tuple[int, int], shift: tuple[int, int]) -> Tensor:
    """[windows, 1, n, n] float32: what is added to the scores of a window's n pixels, by which those that a `shift`
    (down, right) of the picture's `sides` brought together look past each other."""
    (height, width), (down, right) = sides, shift
    came = 2.0 * (torch.arange(height) >= height - down)[:, None] + (torch.arange(width) >= width - right)
    parts = in_windows(came[None, ..., None], window)
    return (_APART * (parts != parts.mT))[:, None]  # not by `where`: of two numbers torchax has none
