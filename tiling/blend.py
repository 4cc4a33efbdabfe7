"""Put upscaled tiles together: each pixel is pasted from one tile, only the narrow seams are blended.

Tiles come in reading order. A row of tiles becomes a strip on the tiles' device; finished strip rows leave for the
output, the rows of the seam below wait (the "carry") for the next strip. Blending every pixel through accumulators
would cost three times as much. Seams are blended in float32 whatever the type.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .plan import Axis, TilePlan


def seam_weights(length: int, device: torch.device) -> Tensor:
    """[length] weights of the later tile over a seam, rising linearly, never reaching 0 or 1."""
    return (torch.arange(length, device=device, dtype=torch.float32) + 0.5) / max(length, 1)


def _span(axis: Axis, index: int, scale: int) -> tuple[int, int]:
    """Where tile `index` fills the output along an axis: from its first seam's start to its last seam's stop."""
    start = axis.seams[index - 1][0] if index else 0
    stop = axis.seams[index][1] if index < len(axis.seams) else axis.size
    return min(start, axis.size) * scale, min(stop, axis.size) * scale


def strip_bytes(plan: TilePlan, scale: int, pixel_bytes: int) -> int:
    """What `TileBlender` holds at most beside the tiles of a `plan`, for pixels of the result of so many bytes: a strip
    as wide as the picture, and the rows of the seam below it. 0 where a tile is the whole picture."""
    if plan.count == 1:
        return 0
    seams = max((stop - start for start, stop in plan.rows.seams), default=0)
    height = min(plan.rows.tile, plan.rows.size) + seams
    return height * plan.columns.size * scale**2 * pixel_bytes


class TileBlender:
    """Assembles one frame after the other from tiles in reading order.

    With `widen` the rows are float32; without they have their first tile's type, half of it to move where that is
    half, and a blended pixel is rounded to it once for each seam it lies in.
    """

    def __init__(self, plan: TilePlan, scale: int, widen: bool = True) -> None:
        self._plan, self._scale, self._widen = plan, scale, widen
        self._strip: Tensor | None = None
        self._carry: Tensor | None = None

    def add(self, row: int, column: int, tile: Tensor) -> tuple[int, Tensor] | None:
        """Take the tile [C, t*scale, t*scale] at (row, column).

        Returns (first output row, finished rows [h, W*scale, C]) when it completes a strip, else None.
        """
        rows, columns, s = self._plan.rows, self._plan.columns, self._scale
        top, bottom = _span(rows, row, s)
        left, right = _span(columns, column, s)
        y0, x0 = rows.origins[row] * s, columns.origins[column] * s
        piece = tile[:, top - y0 : bottom - y0, left - x0 : right - x0].permute(1, 2, 0)
        dtype = torch.float32 if self._widen else tile.dtype

        if len(columns.origins) == 1:
            # copied only where the seam with the strip above will be blended into it
            return self._finish(row, top, piece.to(dtype, copy=self._carry is not None))
        if self._strip is None:
            self._strip = torch.empty(bottom - top, columns.size * s, piece.shape[2], dtype=dtype, device=tile.device)
        blend_to = min(columns.seams[column - 1][1], columns.size) * s if column else left
        seam = blend_to - left
        if seam:
            weights = seam_weights(seam, tile.device)[None, :, None]
            earlier = self._strip[:, left:blend_to]
            earlier.copy_(torch.lerp(earlier.float(), piece[:, :seam].float(), weights))
        self._strip[:, blend_to:right] = piece[:, seam:]
        if column + 1 < len(columns.origins):
            return None

        strip, self._strip = self._strip, None
        return self._finish(row, top, strip)

    def _finish(self, row: int, top: int, strip: Tensor) -> tuple[int, Tensor]:
        """Blend the strip with the one above, keep the rows of the seam below, give the rest away."""
        rows, s = self._plan.rows, self._scale
        if self._carry is not None:
            n = self._carry.shape[0]
            weights = seam_weights(n, strip.device)[:, None, None]
            strip[:n] = torch.lerp(self._carry.float(), strip[:n].float(), weights)
            self._carry = None
        finished = strip.shape[0]
        if row < len(rows.seams):
            finished = min(rows.seams[row][0], rows.size) * s - top
            self._carry = strip[finished:].clone()
        return top, strip[:finished]
