"""What forwards were seen to take of memory, over what was estimated: the last ratios, and what is made of them."""

from __future__ import annotations

import math
from collections.abc import Sequence

KEPT = 20
"""Ratios that are kept of a place: the largest of them rises at once, and falls when it is no longer among them."""

PLAUSIBLE = (0.05, 4.0)
"""What a forward can take over its estimate, at least and at most: bounds by widths are up to eight times too high."""

_STEP = 1.1  # measuring is not exact: runs that differ by less than this are to be of one revision, mostly


def with_ratio(ratios: Sequence[float], ratio: float) -> tuple[float, ...]:
    """The last ratios, `ratio` included, the latest last."""
    return (*ratios, round(ratio, 4))[-KEPT:]


def aged(ratios: Sequence[float], usual: float) -> tuple[float, ...]:
    """The last ratios after a run whose forwards were made small for their sake, so that none could be compared: of
    those over what is `usual`, which may have been something else's memory, the oldest goes in time. Others stay."""
    return with_ratio(ratios, usual) if ratios and max(ratios) > usual else tuple(ratios)


def factor_of(ratios: Sequence[float]) -> float | None:
    """By what an estimate is multiplied: the largest of these ratios, rounded up to a power of 1.1; None: of none."""
    if not ratios:
        return None
    return round(_STEP ** math.ceil(math.log(max(ratios), _STEP) - 1e-9), 4)
