"""When a compile pays, and for which tile shapes: pure arithmetic on what past compiles cost and saved."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import median

from ..api.model_info import ModelInfo
from ..backends.shapes import TileShapes
from ..storage.artifacts import Entry
from ..tiling.plan import round_up, smallest_side

# Until there is anything to learn from. CPU: measured (docs/compiling.md), two cores, fp32. CUDA: guesses.
_COMPILE_SECONDS = 60.0
_SHARE_SAVED_OF_CONVOLUTIONS_ON_CPU = 0.1
_SHARE_SAVED_ELSEWHERE = 0.3

_LEAST_SIDE, _MOST_SIDE, _MOST_TILES = 32, 2048, 256
_ROUND = 8
# The longest side of the tiles that are compiled for, one after the other, where a program takes one size: a whole
# picture at first, since often all are of that size, then what pictures of all sizes can be cut into, large ones, usual
# ones and small ones, in overlaps, which say how small is wasteful. Smaller pictures are filled up to the last, but not
# with a convolutional model: torch computes those. How these were found: docs/backends.md#which-tiles.
_LARGER = (math.inf, 12.0, 7.0)
_LAST = 4.0
_LAST_OF_CONVOLUTIONS = 2.5
_LEAST_LONGEST = 64
MOST_SHAPES = len(_LARGER) + 1
"""Compiled for one model, and used within a week."""
_STRETCH = 0.25  # seconds
_ENOUGH = 3  # stretches: the first warms caches up


@dataclass(frozen=True)
class Expectation:
    """What a compile takes, in seconds, and the share of eager time that its result saves, 0..1."""

    compile_seconds: float
    share_saved: float


class BestTime:
    """The best rate at which some stretch of work went, in seconds per megapixel of input: what else the machine does
    only ever slows it down. Short batches are taken together, for their times are mostly noise."""

    def __init__(self) -> None:
        self._seconds = self._megapixels = 0.0
        self._rates: list[float] = []

    def add(self, seconds: float, megapixels: float) -> None:
        self._seconds, self._megapixels = self._seconds + seconds, self._megapixels + megapixels
        if self._seconds >= _STRETCH:
            self._rates = [*self._rates[-_ENOUGH:], self._seconds / self._megapixels]
            self._seconds = self._megapixels = 0.0

    @property
    def rate(self) -> float:
        """0 until there was enough work to say."""
        return min(self._rates) if len(self._rates) >= _ENOUGH else 0.0


def expect(entries: Iterable[Entry], architecture: str, device_type: str, convolutional: bool) -> Expectation:
    """The median of what was seen of the architecture on such a device; a compile's time also from others; else a rule
    of thumb."""
    here = [entry for entry in entries if entry.what.get("device") == device_type]
    same = [entry for entry in here if entry.what.get("architecture") == architecture]
    seconds = [[entry.compile_seconds for entry in group if entry.compile_seconds] for group in (same, here)]
    saved = [
        max(0.0, 1.0 - entry.compiled_rate / entry.eager_rate)
        for entry in same
        if entry.compiled_rate and entry.eager_rate
    ]
    rule = _SHARE_SAVED_OF_CONVOLUTIONS_ON_CPU if convolutional and device_type == "cpu" else _SHARE_SAVED_ELSEWHERE
    return Expectation(
        compile_seconds=median(seconds[0] or seconds[1] or [_COMPILE_SECONDS]),
        share_saved=median(saved or [rule]),
    )


def breaks_even(eager_seconds: float, expected: Expectation) -> bool:
    """Whether what compiled code would have saved of `eager_seconds`, spent and to come, is what the compile takes.

    The ski-rental rule (Karlin et al., Competitive snoopy caching, 1988): who buys when the rent paid reaches the price
    never pays more than twice the best.
    """
    return eager_seconds * expected.share_saved >= expected.compile_seconds


def compilable_shapes(info: ModelInfo, tile: tuple[int, int], one_size_only: bool = False) -> tuple[TileShapes, ...]:
    """What to compile a model for, best first, where tiles of (height, width) are wanted.

    Convolutions do not care for the size: one forward for all of them, at no measurable cost. Attention models bake the
    size into masks and window counts, and tracing theirs for any size takes minutes or fails: one forward for one size,
    rounded up so that its like can use it too. That is also left where a convolutional model cannot be traced so, but
    not rounded: its pictures may not be filled up (pipeline/scheduler.py).
    """
    step = 1 if info.convolutional else math.lcm(info.alignment, _ROUND)
    height, width = (round_up(side, step) for side in tile)
    if info.square:
        height = width = max(height, width)
    one_size = TileShapes.one(height, width)
    if one_size_only or info.square or not info.convolutional:
        return (one_size,)
    least, most = (
        round_up(max(_LEAST_SIDE, info.minimum), info.alignment),
        _MOST_SIDE // info.alignment * info.alignment,
    )
    return (TileShapes(batch=_MOST_TILES, least=(least, least), most=(most, most), step=info.alignment), one_size)


def longest_side(shapes: int, info: ModelInfo, overlap: int) -> int | None:
    """The longest side of the tiles that are compiled for next, where a program takes one size and there are programs
    for so many `shapes`; neighbours share so many pixels (`overlap`). None: as long as the picture is."""
    times = (*_LARGER, _LAST_OF_CONVOLUTIONS if info.convolutional else _LAST)[min(shapes, MOST_SHAPES - 1)]
    if math.isinf(times):
        return None
    least = max(_LEAST_LONGEST, 2 * round_up(overlap, info.alignment), smallest_side(info))
    return max(least, round_up(int(times * overlap), info.alignment))
