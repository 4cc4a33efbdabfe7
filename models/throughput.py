"""What a pixel costs in forwards of different sizes: measured on the model itself, so that tiles and batches suit it.

A small forward leaves the device idle. A large one outgrows the caches; on a CPU large tensors are, beyond 32 MiB at
the latest, new memory to the processor every time (GNU's C library, mallopt(3) under M_MMAP_THRESHOLD), which it has to
map page by page: some models then take three times as long for a pixel.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch

from ..api.context import RunContext
from ..api.errors import first_line
from ..api.model_info import Forward, ModelInfo
from ..kernels.timing import Clock, reproduced, seconds_of_forward
from ..tiling.plan import round_up

logger = logging.getLogger("cudaspeed")

_SIDES = (64, 128, 256, 512, 1024, 2048)  # of the forwards that are measured, in pixels, rounded up to the alignment
# The first forward of a size warms up, or is disturbed; elsewhere than on a CPU, where a long one is left at that, it
# may choose and build kernels, too. So there are two, or as many as it takes until two agree.
_RUNS = 2
_MOST_RUNS = 6  # on a busy machine
_LONG = 0.5  # seconds
# All the measuring takes no more than this part of the work ahead, and is left where that is so few seconds.
_SHARE = 6
_LITTLE_WORK = 0.5
_TO_SPARE = 1.5
_SMALLER = 0.15  # what a pixel is taken to cost more with every halving of the smallest forward that was measured
_FALLING = 0.95
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

    def with_points(self, seen: Mapping[int, float]) -> Throughput:
        """This with further points, or others at the same sizes."""
        return Throughput(tuple(sorted({**dict(self.points), **seen}.items())))


UNKNOWN_THROUGHPUT = Throughput()


def size_class(pixels: int) -> int:
    """The next half doubling: forwards of about as many pixels are one size."""
    return round(2 ** (round(2 * math.log2(pixels)) / 2))


@dataclass(frozen=True)
class ThroughputProbe:
    """Measures a model on the context's device, by `clock`, where it computes `forward`."""

    forward: Forward
    info: ModelInfo
    context: RunContext
    clock: Clock = time.perf_counter

    def measure(self, known: Throughput, pixels_ahead: int, most_pixels: int) -> Throughput:
        """The throughput at as large sizes as a sixth of the work ahead, `pixels_ahead`, has the time for; `known`
        where that is no larger than what is known. All of it is measured in one go, or what else the machine does would
        decide.

        A forward may be given up to `most_pixels` at once. Nothing is measured where there is little work. Raises only
        the context's interrupt.
        """
        sides = [round_up(max(side, self.info.minimum), self.info.alignment) for side in _SIDES]
        most_pixels = min(most_pixels, pixels_ahead // (_SHARE * _RUNS))
        sizes = sorted({side * side for side in sides if side * side <= most_pixels})
        if known.points and not _time_for_more(known, sizes, pixels_ahead):
            return known
        points = tuple(self._points(sizes, pixels_ahead))
        logger.debug("%s: pixels a forward, seconds a megapixel: %s", self.info.name, points)
        return max(Throughput(points), known, key=lambda throughput: len(throughput.points))

    def _points(self, sizes: list[int], pixels_ahead: int) -> Iterator[tuple[int, float]]:
        """Points at those of the sizes for which there is time, as far as the model takes them."""
        spent, rate = 0.0, None
        for pixels in sizes:
            if rate is not None and not _worthwhile(rate, spent, pixels, pixels_ahead):
                return
            times = self._times(math.isqrt(pixels))
            if not times or not min(times):  # a clock that stands still tells nothing
                return
            spent, rate = spent + sum(times), min(times) / pixels * 1e6
            yield pixels, rate

    def _times(self, side: int) -> list[float]:
        """Seconds that a forward of a square took; none where it fails, or the machine is too busy to tell."""
        generator = torch.Generator().manual_seed(0)
        x = torch.rand(1, self.info.in_channels, side, side, generator=generator).to(self.context.device)
        times: list[float] = []
        no_room = False
        while len(times) < _MOST_RUNS:
            self.context.raise_if_interrupted()
            try:
                times.append(seconds_of_forward(self.forward, x, self.clock))
            except Exception as error:  # the model fails, or memory runs out: the run will see, and tell
                no_room = self.context.is_out_of_memory(error)
                name, reason = self.info.name, first_line(error)
                logger.debug("the throughput of %s at %dx%d cannot be measured: %s", name, side, side, reason)
                break
            if reproduced(times) or (times[0] > _LONG and self.context.device.type == "cpu"):
                return times
        if no_room:  # here, where the failed forward's tensors are no longer referenced
            self.context.release_cached()
        return []


def _worthwhile(rate: float, spent: float, pixels: int, pixels_ahead: int) -> bool:
    """Whether forwards of so many pixels, at `rate` seconds a megapixel, may be measured after the time `spent`."""
    ahead = rate * pixels_ahead / 1e6
    return ahead >= _LITTLE_WORK and spent + _RUNS * rate * pixels / 1e6 <= ahead / _SHARE


def _time_for_more(known: Throughput, sizes: list[int], pixels_ahead: int) -> bool:
    """Whether there is time for a larger size than those that are known, after these, with some to spare: or all would
    be measured again and again, and never more."""
    most, rate = known.points[-1]
    larger = next((size for size in sizes if size > most), None)
    if larger is None:
        return False
    rates = dict(known.points)
    spent = sum(_RUNS * size * rates.get(size, rate) for size in sizes if size < larger) / 1e6
    return _worthwhile(rate, _TO_SPARE * spent, larger, pixels_ahead)
