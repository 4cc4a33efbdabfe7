"""Whether two forwards of one model agree: a compiled result beside the eager one, both ways compared."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..api.options import Precision


class _Limits(NamedTuple):
    """What rounding explains, as shares of the picture's range: 1, or the eager output's own size if that is more."""

    spread: float  # root mean square difference
    shift: float  # difference of the means: rounding has no direction, a veil has
    worst: float  # any single value


# Two orders of the same sums, through some hundred layers. Measured between eager and compiled (bf16: CRAFT, ESRGAN of
# 23 blocks, Compact) the spread stays below a third of these; 0.3 of grey veil is thirty times the coarsest.
_LIMITS: dict[Precision, _Limits] = {
    "fp32": _Limits(5e-4, 1e-4, 1.5e-2),  # TF32 convolutions, torch's default on CUDA, included
    "fp16": _Limits(2e-3, 5e-4, 6e-2),
    "bf16": _Limits(1e-2, 3e-3, 3e-1),
}


def mismatch(compiled: Tensor, eager: Tensor, precision: Precision) -> str | None:
    """Why `compiled` cannot be the model's output if `eager` is (both [N, C, h, w]), or None where they agree.

    Where eager itself has values that are no numbers, nothing can be said about those, and nothing is.
    """
    if compiled.shape != eager.shape:
        return f"it has shape {tuple(compiled.shape)} instead of {tuple(eager.shape)}"
    good = torch.isfinite(eager)
    truth = torch.where(good, eager, 0).float()
    other = torch.where(good, compiled, 0).float()
    if not bool(torch.isfinite(other).all()):
        return "it holds NaN or infinite values where the eager output has none"
    difference = other - truth
    size = max(1.0, float(truth.square().mean().sqrt()))
    limits = _LIMITS[precision]
    spread, shift = float(difference.square().mean().sqrt()) / size, abs(float(difference.mean())) / size
    worst = float(difference.abs().max()) / size
    if spread <= limits.spread and shift <= limits.shift and worst <= limits.worst:
        return None
    return (
        f"it differs from the eager output by {spread:.1e} (mean {shift:.1e}, at most {worst:.1e}), "
        f"more than {precision} explains"
    )
