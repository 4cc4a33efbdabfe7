"""What forwards were seen to take of memory, over what was estimated: the last ratios, and what is made of them.

They are kept by how large the forwards were. Small ones take more over the estimate than large ones do: what libraries
and threads have at their side counts more.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate

KEPT = 20
"""Ratios that are kept of each size: the largest of them rises at once, and falls when it is no longer among them."""

PLAUSIBLE = (0.05, 4.0)
"""What a forward can take over its estimate, at least and at most: bounds by widths are up to eight times too high."""

SIZES = tuple(64 << doubled for doubled in range(20))
"""Of forwards, by their estimates: at most so many MB, and more than half of it, but for the first."""

_STEP = 1.05  # measuring is not exact: runs that differ by less than this are to be of one revision, mostly

Peak = tuple[int, float]
"""A forward's size, one of `SIZES`, and what it took over its estimate."""

Curve = tuple[tuple[float, float], ...]
"""Points of rising bytes that are estimated, and bytes that are taken, which do not fall."""


def size_of(estimate: int) -> int:
    """Of a forward that is estimated to take so many bytes."""
    return next((size for size in SIZES if estimate <= size << 20), SIZES[-1])


def with_peak(peaks: Sequence[Peak], peak: Peak) -> tuple[Peak, ...]:
    """The last ratios of each size, `peak` included, the latest last."""
    size, ratio = peak
    alike = [known for known in peaks if known[0] == size][1 - KEPT :]
    return (*(known for known in peaks if known[0] != size), *alike, (size, round(ratio, 4)))


def aged(peaks: Sequence[Peak], usual: float) -> tuple[Peak, ...]:
    """The last ratios after a run whose forwards were made small for their sake, so that none could be compared: of
    those over what is `usual`, which may have been something else's memory, the oldest goes in time. Others stay."""
    found = tuple(peaks)
    for size in {size for size, ratio in peaks if ratio > usual}:
        found = with_peak(found, (size, usual))
    return found


def factors_of(peaks: Sequence[Peak]) -> dict[int, float]:
    """By size, what an estimate is multiplied by: the largest of its ratios, rounded up to a power of 1.05."""
    largest: dict[int, float] = {}
    for size, ratio in peaks:
        largest[size] = max(ratio, largest.get(size, 0.0))
    return {size: round(_STEP ** math.ceil(math.log(ratio, _STEP) - 1e-9), 4) for size, ratio in largest.items()}


def curve_of(factors: Iterable[Mapping[int, float]]) -> Curve:
    """What forwards take by their estimates, by the largest of some factors for each size: exactly so within sizes that
    there are factors of, in a straight line between them. () where there are none."""
    known = [*factors]
    sizes = sorted({size for some in known for size in some})
    points: list[tuple[float, float]] = []
    for size in sizes:
        factor = max(some[size] for some in known if size in some)
        points += [(float(ends), ends * factor) for ends in (size << 19, size << 20)]
    taken = accumulate((takes for _, takes in points), max)
    return tuple((estimate, takes) for (estimate, _), takes in zip(points, taken, strict=True))
