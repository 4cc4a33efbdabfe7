"""The frames of an animation: what all formats' writers are given, and what they share."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .metadata import Metadata

_EXACT = 1e-6  # of a unit


class Box(NamedTuple):
    """Part of a frame, from `left` and `top` to before `right` and `bottom`, in pixels."""

    left: int
    top: int
    right: int
    bottom: int

    @property
    def size(self) -> tuple[int, int]:
        return self.right - self.left, self.bottom - self.top

    def of(self, samples: NDArray[Any]) -> NDArray[Any]:
        return samples[self.top : self.bottom, self.left : self.right]


class Frame(NamedTuple):
    """Samples [H, W, C] of 8 or 16 bits, C = 1 to 4 as `Picture` has them, and for how long they are shown."""

    samples: NDArray[Any]
    milliseconds: float


class Played(NamedTuple):
    """What a file says of its animation before any frame is decoded; `plays` is 0 for ever."""

    frames: int
    size: tuple[int, int]  # width, height
    plays: int


@dataclass(frozen=True)
class Timing:
    """How long each frame is shown, in milliseconds, and how often all are played; 0 plays for ever."""

    durations: tuple[float, ...]
    plays: int = 0

    def rounded(self, unit: float, most: int, format_name: str) -> tuple[list[int], tuple[str, ...]]:
        """Durations in whole `unit`s of that many milliseconds, none above `most`; and warnings.

        Each frame ends at the unit nearest to where it should, so that errors do not add up.
        """
        exact = np.asarray(self.durations, np.float64) / unit
        rounded = np.diff(np.rint(np.cumsum(exact)), prepend=0.0)
        kept = np.minimum(rounded, most)
        notes: tuple[str, ...] = ()
        if np.abs(kept - exact).max() > _EXACT:
            notes = (
                f"{format_name} tells times in steps of {unit:g} ms up to {most * unit / 1000:g} s; some were rounded",
            )
        return [int(length) for length in kept], notes


@dataclass(frozen=True)
class Film:
    """An animation to write: `frames` of one shape, [H, W] or [H, W, C] of 8 or 16 bits, one for each duration."""

    frames: Iterable[NDArray[Any]]
    timing: Timing
    metadata: Metadata


def changes(frames: Iterable[NDArray[Any]]) -> Iterator[tuple[NDArray[Any], Box]]:
    """Each frame and the part of it that differs from the one before: all of the first, one pixel of an equal one."""
    before = None
    for frame in frames:
        height, width = frame.shape[:2]
        yield frame, Box(0, 0, width, height) if before is None else _difference(before, frame)
        before = frame


def _difference(before: NDArray[Any], frame: NDArray[Any]) -> Box:
    different = before != frame
    if different.ndim == 3:
        different = different.any(axis=2)
    rows, columns = np.flatnonzero(different.any(axis=1)), np.flatnonzero(different.any(axis=0))
    if not len(rows):
        return Box(0, 0, 1, 1)
    return Box(int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)
