"""Optimisation profiles: for which sizes of a tile batch TensorRT looks for its fastest kernels, and which it takes.

A profile is a box of shapes, with one in it that kernels are chosen for. Parts of TensorRT count a tensor's elements in
32 bits (NVIDIA/TensorRT, issue 3815), wherever in the box, so that tiles of any size and batches of any number cannot
be one: there is one of single tiles, as large as they may be, and one of some at once, which are smaller.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from .errors import CompileError
from .shapes import TileShapes

Shape = tuple[int, int, int, int]
"""[N, C, h, w]"""
_MOST_ELEMENTS = 2**31 - 1
_TOGETHER = 8  # tiles: more are computed in several goes, which is the same work on a card that 8 fill


@dataclass(frozen=True)
class Profile:
    """The least and the largest shape that it takes, and the one that it is fastest for."""

    least: Shape
    typical: Shape
    most: Shape

    def takes(self, shape: Sequence[int]) -> bool:
        """Whether every side of `shape` lies within it."""
        return all(low <= side <= high for low, side, high in zip(self.least, shape, self.most, strict=True))


def plan(shapes: TileShapes, example: Shape, elements: int) -> tuple[Profile, ...]:
    """The profiles for `shapes`, the one for the fewest tiles at once first; their typical sides are `example`'s.

    `elements` has the largest tensor that the model makes of `example`. Raises `CompileError` where that leaves no room
    for a tile of the least size.
    """
    channels = example[1]
    if shapes.fixed:
        only = (shapes.batch, channels, *shapes.most)
        return (Profile(only, only, only),)
    pixels = _MOST_ELEMENTS * (example[0] * example[2] * example[3]) // elements
    profiles = []
    for count in sorted({1, min(shapes.batch, _TOGETHER)}):
        side = math.isqrt(pixels // count) // shapes.step * shapes.step
        low, high = shapes.least, (min(shapes.most[0], side), min(shapes.most[1], side))
        if high[0] >= low[0] and high[1] >= low[1]:
            usual = (_between(low[0], example[2], high[0]), _between(low[1], example[3], high[1]))
            profiles.append(Profile((1, channels, *low), (count, channels, *usual), (count, channels, *high)))
    if not profiles:
        raise CompileError(
            f"its tensors have more than {_MOST_ELEMENTS} elements for {shapes}, more than TensorRT counts"
        )
    return tuple(profiles)


def fitting(profiles: Sequence[Profile], shape: Sequence[int]) -> tuple[int, int]:
    """(which profile, how many tiles at once) for a batch of `shape`: the one for the fewest that takes all of them, or
    else as many as there may be. Raises `RuntimeError` where none takes such tiles."""
    alone = (1, *shape[1:])
    may = [number for number, profile in enumerate(profiles) if profile.takes(alone)]
    if not may:
        height, width = shape[2:]
        raise RuntimeError(f"tiles of {width}x{height} are larger than TensorRT could be given this model for")
    whole = [number for number in may if profiles[number].takes(shape)]
    chosen = whole[0] if whole else max(may, key=lambda number: profiles[number].most[0])
    return chosen, min(shape[0], profiles[chosen].most[0])


def _between(low: int, wanted: int, high: int) -> int:
    return min(max(low, wanted), high)
