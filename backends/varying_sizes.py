"""Which sizes of a tile batch may vary, in the terms of torch's tracer."""

from __future__ import annotations

from typing import Any

import torch

from .shapes import TileShapes


def varying_sizes(shapes: TileShapes) -> tuple[dict[int, Any]] | None:
    """For `torch.export.export(..., dynamic_shapes=)` of a forward of one batch [N, C, h, w]: by axis, from where to
    where it may vary; None for nothing."""
    if shapes.fixed:
        return None
    step = shapes.step
    vertical, horizontal = (
        torch.export.Dim(name, min=low // step, max=high // step)
        for name, low, high in zip(("vertical", "horizontal"), shapes.least, shapes.most, strict=True)
    )
    return ({0: torch.export.Dim("count", min=1, max=shapes.batch), 2: step * vertical, 3: step * horizontal},)
