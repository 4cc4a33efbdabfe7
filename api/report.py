"""What was wrong with a picture and what was done about it, in sentences for the log and the report."""

from __future__ import annotations

from collections import Counter

from ..contracts import ImageHealth


def health_warnings(health: ImageHealth) -> list[str]:
    """A sentence for each thing that was wrong, none for a healthy picture."""
    found = []
    if health.repairs:
        found.append(_repairs(health))
    if health.non_finite:
        found.append(f"{health.non_finite} values of the output were NaN or infinite and were filled from the input")
    if health.wild:
        found.append(f"{health.wild} values of the output were far from any other and were filled from the input")
    if health.corrected_frames:
        found.append(
            f"the output's range was broken and was corrected by quantiles in frames {health.corrected_frames}"
        )
    left = tuple(sorted(set(health.broken_frames) - set(health.corrected_frames)))
    if left:
        found.append(
            f"the output of frames {left} is far out of range and unlike the input: is the model's file intact?"
        )
    return found


def _repairs(health: ImageHealth) -> str:
    """Which tiles were computed again, why and how; and what the run learned from it."""
    kinds = Counter((repair.ailment, repair.before, repair.after) for repair in health.repairs)
    told = "; ".join(
        f"{count} tile(s) had {ailment} in {before} and were computed again in {after}"
        for (ailment, before, after), count in kinds.items()
    )
    first = health.repairs[0]
    where = f"the first in frame {first.frame}, row {first.tile[0]}, column {first.tile[1]}"
    left = f"; the rest was computed without {health.given_up}" if health.given_up else ""
    return f"{told} ({where}){left}"
