"""What a pixel costs in forwards of different sizes: measured on the model itself, so that tiles and batches suit it.

A small forward leaves the device idle. A large one outgrows the caches; on a CPU large tensors are, beyond 32 MiB at
the latest, new memory to the processor every time (GNU's C library, mallopt(3) under M_MMAP_THRESHOLD), which it has to
map page by page: some models then take three times as long for a pixel.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from ..api.model_info import ModelInfo
from ..kernels.timing import reproduced
from ..tiling.plan import round_up
from .execution import ExecutionMode
from .study import Ask, Steps, Study

_SIDES = (64, 128, 256, 512, 1024, 2048)  # of the forwards that are measured, in pixels, rounded up to the alignment
_RUNS = 2  # of a size: the first warms up, or is disturbed
_ALIKE = 0.25  # two times that are further apart say nothing: the machine was busy
_SMALLER = 0.15  # what a pixel is taken to cost more with every halving of the smallest forward that was measured
_FALLING = 0.95
_LEAST_POINTS = 2
_WIDE = 1.1  # with 1.5, another process made DCTLSA be computed in tiles that took three times as long
_AS_GOOD = 1.03


@dataclass(frozen=True)
class Throughput:
    """`points`: (pixels of a forward's input, seconds a megapixel), by pixels. None of them: nothing is known, and all
    sizes count as equal."""

    points: tuple[tuple[int, float], ...] = ()

    @property
    def settled(self) -> bool:
        """Whether the best size was found: the largest that was measured was no longer clearly the cheapest."""
        *before, (_, last) = self.points or [(0, 0.0)]
        return bool(before) and last > _FALLING * min(seconds for _, seconds in before)

    def relative(self, pixels: int) -> float:
        """What a pixel costs in forwards of so many, by that of the best size that was measured."""
        if not self.points:
            return 1.0
        least, first = self.points[0]
        seconds = self.points[-1][1]
        if pixels < least:
            seconds = first * (1 + _SMALLER * math.log2(least / pixels))
        for (small, before), (large, after) in zip(self.points, self.points[1:], strict=False):
            if small <= pixels < large:
                seconds = before + (after - before) * math.log(pixels / small) / math.log(large / small)
        return seconds / min(seconds for _, seconds in self.points)

    def best_count(self, pixels: int, most: int) -> int:
        """How many tiles of so many pixels, of at most `most`, to compute at once: the fewest, by doublings, that are
        as good as any. No more than make a forward as large as the largest that was measured."""
        most = max(1, min(most, self.points[-1][0] // pixels if self.points else 1))
        costs = {count: self.relative(count * pixels) for count in (1 << k for k in range(most.bit_length()))}
        return next(count for count, cost in costs.items() if cost <= _AS_GOOD * min(costs.values()))

    def held_to(self, known: Throughput) -> Throughput:
        """These points, in shares of the cheapest, and none of them far from what is `known` of such sizes: what is
        further off was another process's doing."""
        held = {}
        for pixels, _ in self.points:
            expected = known.relative(pixels)
            held[pixels] = min(max(self.relative(pixels), expected / _WIDE), expected * _WIDE)
        return Throughput(tuple(sorted(held.items())))

    def with_points(self, seen: Mapping[int, float]) -> Throughput:
        """This with further points, or others at the same sizes."""
        return Throughput(tuple(sorted({**dict(self.points), **seen}.items())))


UNKNOWN_THROUGHPUT = Throughput()


def study(
    mode: ExecutionMode, info: ModelInfo, place: str, known: Throughput, most_pixels: int, allowed_pixels: int
) -> Study | None:
    """Measures the throughput of a model in `mode`, kept under `place`, at sizes beyond those that are `known`, of at
    most `most_pixels` a forward and `allowed_pixels` in all; None where it is settled, or there is too little for it.

    A size whose times are far apart is left out, and not measured again: what is kept is known for good.
    """
    if known.settled:
        return None
    sizes = _sizes(info, known, most_pixels, allowed_pixels)
    if len(sizes) + len(known.points) < _LEAST_POINTS or not sizes:
        return None

    def steps() -> Steps:
        times: dict[int, list[float]] = {pixels: [] for pixels in sizes}
        generator = torch.Generator().manual_seed(0)
        too_large = math.inf
        for pixels in (*sizes,) * _RUNS:  # in turn, so that what else the machine does meets them all alike
            if pixels >= too_large:
                continue
            side = math.isqrt(pixels)
            answer = yield Ask(mode, torch.rand(1, info.in_channels, side, side, generator=generator))
            if answer.output is None:  # the run will see, and tell
                too_large = pixels
            times[pixels].append(answer.seconds)
        seen = {
            pixels: min(seconds) / pixels * 1e6
            for pixels, seconds in times.items()
            if pixels < too_large and min(seconds) and reproduced(seconds, _ALIKE)  # a clock may stand still
        }
        return {"throughputs": {place: known.with_points(seen).points}}

    return Study(f"throughput from {sizes[0]} pixels of {place}", _RUNS * sum(sizes), steps())


def _sizes(info: ModelInfo, known: Throughput, most_pixels: int, allowed_pixels: int) -> Sequence[int]:
    """Input pixels of the forwards to measure, smallest first."""
    sides = [round_up(max(side, info.minimum), info.alignment) for side in _SIDES if side * side <= most_pixels]
    beyond = known.points[-1][0] if known.points else 0
    sizes = sorted({side * side for side in sides if beyond < side * side <= most_pixels})
    while sizes and _RUNS * sum(sizes) > allowed_pixels:
        sizes.pop()
    return sizes
