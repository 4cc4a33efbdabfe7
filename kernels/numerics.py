"""Whether two results of one computation agree: what another kernel, layout or compiler made, beside the plain one."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ..api.options import Precision


@dataclass(frozen=True)
class Limits:
    """The difference that rounding explains, in shares of the true result's size: its root mean square, or `least_size`
    where that is more."""

    worst: float
    """Of any single value."""
    spread: float = math.inf
    """The root mean square of all differences."""
    shift: float = math.inf
    """Between the means: rounding has no direction, a veil has."""
    least_size: float = 0.0
    """1 for pictures: a dark one is rounded as others are."""


# Two orders of the same sums, through some hundred layers. Measured between eager and compiled (bf16: CRAFT, ESRGAN of
# 23 blocks, Compact) the spread stays below a third of these; 0.3 of grey veil is thirty times the coarsest.
OF_A_MODEL: Mapping[Precision, Limits] = {
    "fp32": Limits(1.5e-2, 5e-4, 1e-4, least_size=1.0),  # TF32 convolutions, torch's default on CUDA, included
    "fp16": Limits(6e-2, 2e-3, 5e-4, least_size=1.0),
    "bf16": Limits(3e-1, 1e-2, 3e-3, least_size=1.0),
}
"""What rounding explains between two forwards of one model, [N, C, h, w] 0..1, by the precision they compute in."""


def compare(result: Tensor, truth: Tensor, limits: Limits) -> str | None:
    """Why `result` cannot be what `truth` is, in one line; None where they have one shape and differ by no more than
    `limits`. Any floating type, on one device; differences are taken in float32.

    Where the truth itself has values that are no numbers, nothing can be said about those, and nothing is.
    """
    if result.shape != truth.shape:
        return f"it has shape {tuple(result.shape)} instead of {tuple(truth.shape)}"
    good = torch.isfinite(truth)
    known = torch.where(good, truth, 0).float()
    found = torch.where(good, result, 0).float()
    if not bool(torch.isfinite(found).all()):
        return "it holds NaN or infinite values where there should be none"
    difference = found - known
    size = max(limits.least_size, _root_mean_square(known)) or 1.0  # of zeros: any
    worst, spread = float(difference.abs().max()) / size, _root_mean_square(difference) / size
    shift = abs(float(difference.mean())) / size
    if worst <= limits.worst and spread <= limits.spread and shift <= limits.shift:
        return None
    told = [("at most", worst, limits.worst), ("spread", spread, limits.spread), ("mean", shift, limits.shift)]
    off = ", ".join(f"{name} {value:.1e}" for name, value, _ in told)
    allowed = ", ".join(f"{name} {most:.1e}" for name, _, most in told if most < math.inf)
    return f"it differs from what it should be ({off} of its size) by more than rounding explains ({allowed})"


def _root_mean_square(values: Tensor) -> float:
    return float(values.square().mean().sqrt())
