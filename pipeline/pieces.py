"""Tiles too large for the memory that there turned out to be, computed in pieces: what else is finished of their frames
stays."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from ..api.model_info import ModelInfo
from ..tiling.blend import TileBlender
from ..tiling.pad import cut_tile, to_canvas
from ..tiling.plan import TilePlan, plan_tiles

Forward = Callable[[Tensor], Tensor]


def smaller_forwards(count: int, height: int, width: int, info: ModelInfo) -> Iterator[int]:
    """Input pixels of forwards to try where one of `count` tiles [height, width] does not fit: that one once more, then
    half as many tiles each time, then one in ever smaller pieces, down to the least that the model takes."""
    yield count * height * width
    while count > 1:
        count //= 2
        yield count * height * width
    pixels = height * width
    while (plan := plan_tiles(height, width, info, max_pixels=max(1, pixels // 2))).tile_pixels < pixels:
        yield (pixels := plan.tile_pixels)


def in_pieces(forward: Forward, tiles: Tensor, info: ModelInfo, most_pixels: int) -> Tensor:
    """What `forward` makes of `tiles` [N, C, h, w], [N, C', h*s, w*s], by forwards of at most `most_pixels` input
    pixels each, or of the least that the model takes."""
    height, width = tiles.shape[2:]
    together = most_pixels // (height * width)
    if together:
        return torch.cat([forward(some) for some in tiles.split(together)])
    plan = plan_tiles(height, width, info, max_pixels=most_pixels)
    return torch.stack([_put_together(forward, tile, info, plan) for tile in tiles])


def _put_together(forward: Forward, tile: Tensor, info: ModelInfo, plan: TilePlan) -> Tensor:
    """[C, h, w] -> [C', h*s, w*s]."""
    canvas, blender = to_canvas(tile, plan, tile.device), TileBlender(plan, info.scale, widen=False)
    result: Tensor | None = None
    for row in range(len(plan.rows.origins)):
        for column in range(len(plan.columns.origins)):
            piece = forward(cut_tile(canvas, plan, (row, column), info.wraparound)[None])[0]
            finished = blender.add(row, column, piece)
            if finished:
                top, rows = finished
                if result is None:
                    result = rows.new_empty(rows.shape[2], tile.shape[1] * info.scale, rows.shape[1])
                result[:, top : top + len(rows)] = rows.permute(2, 0, 1)
    assert result is not None  # a plan has tiles
    return result
