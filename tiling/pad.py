"""The borders of tileable pictures: what lies beyond an edge is what lies within the opposite one.

A picture that is tileable along an axis is extended there by `WrapPadding.rows` or `WrapPadding.columns` pixels from
its other side, goes through the model as any other, and the extension is cut off again."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..api.model_info import ModelInfo
from ..api.options import TilingMode


@dataclass(frozen=True)
class WrapPadding:
    """What a frame is extended by at the top and the bottom (`rows`), the left and the right (`columns`), in pixels."""

    rows: int = 0
    columns: int = 0

    def __bool__(self) -> bool:
        """Whether there is any."""
        return bool(self.rows or self.columns)

    def around(self, size: tuple[int, int]) -> tuple[int, int]:
        """The (height, width) of a frame of `size` (height, width) with its borders."""
        return size[0] + 2 * self.rows, size[1] + 2 * self.columns

    def extend(self, frame: Tensor) -> Tensor:
        """`frame` [..., H, W, C] with its borders; a frame smaller than they are is repeated. The frame, if none."""
        for dim, width in ((-3, self.rows), (-2, self.columns)):
            if width:
                size = frame.shape[dim]
                places = torch.arange(-width, size + width, device=frame.device).remainder(size)
                frame = frame.index_select(dim, places)
        return frame

    def cut(self, result: Tensor, scale: int) -> Tensor:
        """`result` [..., H*scale, W*scale, C], made of an extended frame, without its borders: a view."""
        top, left = self.rows * scale, self.columns * scale
        height, width = result.shape[-3] - 2 * top, result.shape[-2] - 2 * left
        return result[..., top : top + height, left : left + width, :]


def wrap_padding(mode: TilingMode, info: ModelInfo, overlap: int) -> WrapPadding:
    """The borders that a picture tileable along `mode`'s axes needs to come out as tileable.

    As wide as tiles that do not show where they meet share (`overlap`, in pixels), and on the model's grid, so that
    its windows lie in the picture as they would without borders. Windows fit together over the edge where the
    picture's own size is on the grid, too.
    """
    width = -(-overlap // info.alignment) * info.alignment
    return WrapPadding(
        rows=width if mode in ("wrap", "wrap_y") else 0, columns=width if mode in ("wrap", "wrap_x") else 0
    )
