"""Putting tiles together: exact where they agree, a straight ramp over the seams where they do not."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from cudaspeed.api.model_info import ModelInfo
from cudaspeed.tiling.blend import TileBlender
from cudaspeed.tiling.plan import Axis, TilePlan, plan_tiles

PLAIN = ModelInfo("toy", 2, 3, 3)
GRIDDED = ModelInfo("toy", 2, 3, 3, multiple_of=8, alignment=8)
SQUARE = ModelInfo("toy", 2, 3, 3, multiple_of=4, alignment=12, square=True)
SCALES = pytest.mark.parametrize("scale", [1, 2, 3, 4])


def assemble(blender: TileBlender, plan: TilePlan, tile: Callable[[int, int], Tensor]) -> Tensor:
    """The frame made of `tile(row, column)`; its rows must come from top to bottom, each once."""
    parts: list[Tensor] = []
    for row in range(len(plan.rows.origins)):
        for column in range(len(plan.columns.origins)):
            finished = blender.add(row, column, tile(row, column))
            assert (finished is not None) == (column + 1 == len(plan.columns.origins))
            if finished is not None:
                top, rows = finished
                assert top == sum(part.shape[0] for part in parts)
                parts.append(rows.clone())
    return torch.cat(parts)


def enlarged(picture: Tensor, scale: int) -> Tensor:
    """[H, W, C] -> nearest neighbours, [H*scale, W*scale, C]."""
    return picture.repeat_interleave(scale, 0).repeat_interleave(scale, 1)


def tiles_of(picture: Tensor, plan: TilePlan, scale: int) -> Callable[[int, int], Tensor]:
    """Tiles of a picture upscaled without error. Beyond the picture, on the canvas, there is only NaN."""
    canvas = torch.full((plan.rows.canvas, plan.columns.canvas, picture.shape[2]), float("nan"))
    canvas[: picture.shape[0], : picture.shape[1]] = picture

    def tile(row: int, column: int) -> Tensor:
        y, x = plan.rows.origins[row], plan.columns.origins[column]
        return enlarged(canvas[y : y + plan.rows.tile, x : x + plan.columns.tile], scale).permute(2, 0, 1)

    return tile


def constant_tiles(values: Tensor, plan: TilePlan, scale: int) -> Callable[[int, int], Tensor]:
    """Tiles of one value each."""
    return lambda row, column: values[row, column].expand(1, plan.rows.tile * scale, plan.columns.tile * scale).clone()


def shares(axis: Axis, scale: int) -> Tensor:
    """[tiles, size*scale]: how much of each pixel comes from each tile, ramps over the seams only."""
    position = torch.arange(axis.size * scale) + 0.5
    later = [((position - a * scale) / ((b - a) * scale)).clamp(0, 1) for a, b in axis.seams]
    rising = [torch.ones_like(position), *later]
    falling = [*(1 - ramp for ramp in later), torch.ones_like(position)]
    return torch.stack([up * down for up, down in zip(rising, falling, strict=True)])


@SCALES
@pytest.mark.parametrize(
    ("size", "info", "side", "overlap"),
    [
        ((1, 1), PLAIN, 8, 0),
        ((7, 5), GRIDDED, 8, 0),  # a single tile, larger than the picture
        ((50, 70), PLAIN, 24, 8),
        ((50, 70), PLAIN, 24, 0),  # no seams at all
        ((50, 70), PLAIN, 24, 20),  # three tiles share pixels
        ((50, 20), PLAIN, 24, 8),  # one column
        ((20, 50), PLAIN, 24, 8),  # one row
        ((61, 83), GRIDDED, 32, 8),  # canvas larger than the picture
        ((61, 83), GRIDDED, 16, 8),
        ((57, 31), SQUARE, 24, 12),
    ],
)
def test_tiles_of_a_picture_give_it_back_exactly(
    size: tuple[int, int], info: ModelInfo, side: int, overlap: int, scale: int
) -> None:
    plan = plan_tiles(*size, info, max_side=side, overlap=overlap)
    picture = torch.rand(*size, 3, generator=torch.Generator().manual_seed(0))
    result = assemble(TileBlender(plan, scale), plan, tiles_of(picture, plan, scale))
    assert torch.equal(result, enlarged(picture, scale))


def test_one_assembler_serves_frame_after_frame() -> None:
    plan = plan_tiles(40, 40, PLAIN, max_side=24, overlap=8)
    blender = TileBlender(plan, 2)
    for value in (0.2, 0.7, 0.4):
        picture = torch.full((40, 40, 3), value)
        assert torch.equal(assemble(blender, plan, tiles_of(picture, plan, 2)), enlarged(picture, 2))


@pytest.mark.parametrize("size", [(50, 50), (50, 20), (20, 50)])
def test_tiles_in_half_precision_are_blended_in_single(size: tuple[int, int]) -> None:
    plan = plan_tiles(*size, PLAIN, max_side=32, overlap=12)
    values = torch.tensor([[1.0, 2.0], [3.0, 4.0]]).half()
    result = assemble(TileBlender(plan, 4), plan, constant_tiles(values, plan, 4))
    assert result.dtype == torch.float32
    assert not torch.equal(result, result.half().float()), "the ramps are finer than half precision"


@SCALES
@pytest.mark.parametrize("across", [True, False], ids=["left-right", "top-bottom"])
def test_an_offset_between_neighbours_becomes_a_ramp_across_the_seam_and_nowhere_else(across: bool, scale: int) -> None:
    size = (30, 50) if across else (50, 30)
    plan = plan_tiles(*size, PLAIN, max_side=32, overlap=12)
    axis = plan.columns if across else plan.rows
    assert len(axis.origins) == 2
    values = torch.tensor([[0.0, 1.0]]) if across else torch.tensor([[0.0], [1.0]])
    result = assemble(TileBlender(plan, scale), plan, constant_tiles(values, plan, scale))[..., 0]

    lines = result if across else result.T
    assert (lines == lines[0]).all(), "the same along the whole seam"
    start, stop = (side * scale for side in axis.seams[0])
    line = lines[0]
    assert (line[:start] == 0).all()
    assert (line[stop:] == 1).all()
    ramp = line[start:stop]
    assert stop - start >= 3 * scale
    assert torch.allclose(ramp, (torch.arange(stop - start) + 0.5) / (stop - start), atol=1e-6)


@SCALES
def test_the_corner_of_four_tiles_is_blended_in_both_directions_at_once(scale: int) -> None:
    plan = plan_tiles(50, 50, PLAIN, max_side=32, overlap=12)
    assert plan.count == 4
    values = torch.tensor([[0.0, 1.0], [2.0, 5.0]])
    result = assemble(TileBlender(plan, scale), plan, constant_tiles(values, plan, scale))[..., 0]

    (top, bottom), (left, right) = ([side * scale for side in axis.seams[0]] for axis in (plan.rows, plan.columns))
    n = bottom - top
    assert n == right - left
    for y in range(n):
        for x in range(n):
            v, u = (y + 0.5) / n, (x + 0.5) / n
            exact = (1 - v) * (1 - u) * 0 + (1 - v) * u * 1 + v * (1 - u) * 2 + v * u * 5
            assert float(result[top + y, left + x]) == pytest.approx(exact, abs=1e-5)
    corners = result[0, 0], result[0, -1], result[-1, 0], result[-1, -1]
    assert [float(corner) for corner in corners] == [0, 1, 2, 5]


@SCALES
@pytest.mark.parametrize("overlap", [0, 8, 20])
def test_many_disagreeing_tiles_are_blended_everywhere_as_planned(overlap: int, scale: int) -> None:
    plan = plan_tiles(75, 90, PLAIN, max_side=32, overlap=overlap)
    values = torch.rand(
        len(plan.rows.origins), len(plan.columns.origins), generator=torch.Generator().manual_seed(overlap)
    )
    result = assemble(TileBlender(plan, scale), plan, constant_tiles(values, plan, scale))[..., 0]
    expected = shares(plan.rows, scale).T @ values @ shares(plan.columns, scale)
    assert torch.allclose(result, expected, atol=1e-5)
