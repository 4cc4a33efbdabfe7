"""What lies around a picture and around its tiles: the canvas that a plan's tiles cover, and wrapped edges.

A picture that is tileable along an axis is extended there by `WrapPadding.rows` or `WrapPadding.columns` pixels from
its other side, goes through the model as any other, and the extension is cut off again.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from ..api.model_info import ModelInfo
from ..api.options import TilingMode
from .plan import Axis, TilePlan, has_room, round_up


@dataclass(frozen=True)
class WrapPadding:
    """What a frame is extended by at the top and the bottom (`rows`), the left and the right (`columns`), in pixels."""

    rows: int = 0
    columns: int = 0

    def __bool__(self) -> bool:
        """Whether there is any."""
        return bool(self.rows or self.columns)

    def padded_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """The (height, width) of a frame of `size` (height, width) with its padding."""
        return size[0] + 2 * self.rows, size[1] + 2 * self.columns

    def pad(self, frame: Tensor) -> Tensor:
        """`frame` [..., H, W, C] with its padding; a frame smaller than that is repeated. The frame, if there is
        none."""
        for dim, width in ((-3, self.rows), (-2, self.columns)):
            if width:
                size = frame.shape[dim]
                indices = torch.arange(-width, size + width, device=frame.device).remainder(size)
                frame = frame.index_select(dim, indices)
        return frame

    def crop(self, result: Tensor, scale: int) -> Tensor:
        """`result` [..., H*scale, W*scale, C], made of a padded frame, without its padding: a view."""
        top, left = self.rows * scale, self.columns * scale
        height, width = result.shape[-3] - 2 * top, result.shape[-2] - 2 * left
        return result[..., top : top + height, left : left + width, :]


def wrap_padding(mode: TilingMode, info: ModelInfo, overlap: int) -> WrapPadding:
    """The padding that a picture tileable along `mode`'s axes needs to come out as tileable.

    As wide as tiles that do not show where they meet share (`overlap`, in pixels), and a multiple of the model's
    alignment, so that its windows lie in the picture as they would without padding. Windows fit together over the edge
    where the picture's own size is such a multiple, too.
    """
    width = round_up(overlap, info.alignment)
    rows, columns = mode in ("wrap", "wrap_y"), mode in ("wrap", "wrap_x")
    return WrapPadding(rows=width * rows, columns=width * columns)


def to_canvas(picture: Tensor, plan: TilePlan, device: torch.device) -> Tensor:
    """A picture [C, H, W] on `device` as float32, extended at the bottom and right where the plan's canvas is larger.

    As spandrel pads: mirrored as far as the picture reaches, then its last row or column repeated.
    """
    x = picture.to(device, torch.float32)[None]
    right, bottom = plan.columns.canvas - plan.columns.size, plan.rows.canvas - plan.rows.size
    mirrored = min(right, plan.columns.size - 1), min(bottom, plan.rows.size - 1)
    if any(mirrored):
        x = F.pad(x, (0, mirrored[0], 0, mirrored[1]), mode="reflect")
    if (right, bottom) != mirrored:
        x = F.pad(x, (0, right - mirrored[0], 0, bottom - mirrored[1]), mode="replicate")
    return x[0]


def cut_tile(canvas: Tensor, plan: TilePlan, index: tuple[int, int], wraparound: int) -> Tensor:
    """The tile at `index` (row, column) of the plan, [C, h, w], from a canvas [C, H, W]: a view, but for those at the
    edges of a model with `wraparound`."""
    for dim, axis, position in ((1, plan.rows, index[0]), (2, plan.columns, index[1])):
        pieces = [canvas.narrow(dim, s.start, s.stop - s.start) for s in tile_slices(axis, position, wraparound)]
        canvas = pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim)
    return canvas


@lru_cache(maxsize=1024)
def tile_slices(axis: Axis, index: int, wraparound: int) -> tuple[slice, ...]:
    """What tile `index` shows of an axis' canvas, in order: from its origin on.

    For a model whose windows run round the picture's edges (`wraparound` pixels), the first and the last tile show,
    beyond the seam and where the overlap has room for it, the other end of the canvas: what their edge has on its other
    side when the picture is one piece.
    """
    start, stop = axis.origins[index], axis.stop(index)
    if len(axis.origins) > 1 and index == 0 and has_room(stop - axis.origins[1], wraparound):
        return slice(start, stop - wraparound), slice(axis.canvas - wraparound, axis.canvas)
    if len(axis.origins) > 1 and stop == axis.canvas and has_room(axis.origins[-2] + axis.tile - start, wraparound):
        return slice(0, wraparound), slice(start + wraparound, stop)
    return (slice(start, stop),)
