"""Tileable pictures stay tileable: rolling the input by half rolls the result."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import zoo
from clocks import new_sessions
from spandrel import ImageModelDescriptor
from torch import Tensor

from cudaspeed.api.errors import BadOptionError
from cudaspeed.api.model_info import ModelInfo
from cudaspeed.api.options import TilingMode, UpscaleOptions
from cudaspeed.host.standalone import StandaloneContext
from cudaspeed.models.loader import DEFAULT_MODEL, load_model, resolve_model
from cudaspeed.tiling.pad import WrapPadding, tile_slices, wrap_padding
from cudaspeed.tiling.plan import plan_tiles
from cudaspeed.upscale_engine import upscale

CLOSE = 2 / 255
SESSIONS = new_sessions()  # one for all, so that each model is measured once


@pytest.fixture(scope="module")
def bundled() -> ImageModelDescriptor:
    return load_model(Path(resolve_model(DEFAULT_MODEL)))


def tileable(height: int, width: int, channels: int = 3) -> Tensor:
    """A seamless texture [height, width, channels]: waves that fit, with fine structure and hard edges."""
    y, x = torch.arange(height)[:, None] / height, torch.arange(width) / width
    turns = [
        0.5 + 0.3 * torch.sin(2 * torch.pi * (2 * x + (c + 1) * y)) * torch.sin(2 * torch.pi * (9 * y - 7 * x))
        for c in range(channels)
    ]
    bricks = 0.2 * ((4 * y).floor() + (6 * x).floor()).remainder(2)
    return (torch.stack(turns, dim=-1) + bricks[..., None]).clamp(0, 1)


def upscaled(picture: Tensor, model: ImageModelDescriptor, mode: TilingMode, **options: object) -> Tensor:
    """One picture [H, W, C] through the engine, in fp32."""
    asked = UpscaleOptions(precision="fp32", compile=False, tiling_mode=mode, **options)  # type: ignore[arg-type]
    return upscale(picture[None], model, asked, StandaloneContext("cpu"), SESSIONS).image[0]


def strays(picture: Tensor, model: ImageModelDescriptor, mode: TilingMode, by: tuple[int, int], **options) -> float:
    """How far the rolled picture's result is from the picture's result, rolled."""
    rolled = upscaled(picture.roll(by, (0, 1)), model, mode, **options)
    wanted = upscaled(picture, model, mode, **options).roll((by[0] * model.scale, by[1] * model.scale), (0, 1))
    assert rolled.shape == (picture.shape[0] * model.scale, picture.shape[1] * model.scale, picture.shape[2])
    return float((rolled - wanted).abs().max())


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("size", [(64, 96), (47, 33)])
def test_a_seamless_texture_stays_seamless(bundled: ImageModelDescriptor, size: tuple[int, int], channels: int) -> None:
    half, picture = (size[0] // 2, size[1] // 2), tileable(*size, channels)
    assert strays(picture, bundled, "wrap", half) <= CLOSE
    assert strays(picture, bundled, "none", half) > 4 * CLOSE, "else the test tests nothing"


@pytest.mark.parametrize("size", [(64, 96), (47, 33)])
def test_a_seamless_cut_out_stays_seamless(bundled: ImageModelDescriptor, size: tuple[int, int]) -> None:
    shape = (tileable(*size, 1) > 0.5).float()
    picture, half = torch.cat([tileable(*size) * shape, shape], dim=-1), (size[0] // 2, size[1] // 2)
    rolled = upscaled(picture.roll(half, (0, 1)), bundled, "wrap")
    wanted = upscaled(picture, bundled, "wrap").roll((2 * half[0], 2 * half[1]), (0, 1))
    assert torch.allclose(rolled[..., 3], wanted[..., 3], atol=CLOSE)
    assert torch.allclose(rolled[..., :3] * rolled[..., 3:], wanted[..., :3] * wanted[..., 3:], atol=CLOSE)


def test_in_tiles_as_in_one_piece(bundled: ImageModelDescriptor) -> None:
    assert strays(tileable(64, 96), bundled, "wrap", (32, 48), tile=64) <= CLOSE


@pytest.mark.parametrize(("mode", "wrapped", "other"), [("wrap_x", (0, 48), (32, 0)), ("wrap_y", (32, 0), (0, 48))])
def test_one_axis_can_be_wrapped_alone(
    bundled: ImageModelDescriptor, mode: TilingMode, wrapped: tuple[int, int], other: tuple[int, int]
) -> None:
    picture = tileable(64, 96)
    assert strays(picture, bundled, mode, wrapped) <= CLOSE
    assert strays(picture, bundled, mode, other) > 4 * CLOSE


def test_a_window_model_keeps_its_windows_when_rolled_by_whole_ones() -> None:
    swinir = zoo.swinir()
    assert strays(tileable(32, 48), swinir, "wrap", (16, 24)) <= CLOSE
    assert strays(tileable(32, 48), swinir, "none", (16, 24)) > CLOSE


@pytest.mark.parametrize("model", [zoo.esrgan(), zoo.span(), zoo.realcugan()], ids=["ESRGAN", "SPAN", "RealCUGAN"])
def test_other_architectures(model: ImageModelDescriptor) -> None:
    assert strays(tileable(32, 48), model, "wrap", (16, 24)) <= CLOSE


@pytest.mark.parametrize("size", [(1, 1), (3, 50), (20, 2)])
@pytest.mark.parametrize("mode", ["wrap", "wrap_x", "wrap_y"])
def test_pictures_smaller_than_the_border_go_round_more_than_once(mode: TilingMode, size: tuple[int, int]) -> None:
    picture = tileable(*size)
    result = upscaled(picture, zoo.toy(3), mode)
    assert torch.allclose(result, picture.repeat_interleave(3, 0).repeat_interleave(3, 1), atol=1e-6)


@pytest.mark.parametrize("padding", [WrapPadding(5, 3), WrapPadding(rows=17), WrapPadding(columns=40), WrapPadding()])
def test_a_border_comes_from_the_opposite_side_and_goes_again(padding: WrapPadding) -> None:
    frame = tileable(8, 10)
    extended = padding.pad(frame)
    rows, columns = (padding.rows,) * 2, (padding.columns,) * 2
    np.testing.assert_array_equal(extended.numpy(), np.pad(frame.numpy(), (rows, columns, (0, 0)), mode="wrap"))
    assert tuple(extended.shape[:2]) == padding.padded_size((8, 10))
    large = extended.repeat_interleave(2, 0).repeat_interleave(2, 1)
    assert torch.equal(padding.crop(large, 2), frame.repeat_interleave(2, 0).repeat_interleave(2, 1))
    assert bool(padding) == (padding != WrapPadding())


def test_borders_are_as_wide_as_an_overlap_and_on_the_grid() -> None:
    info = ModelInfo("toy", 2, 3, 3, alignment=12)
    assert wrap_padding("none", info, 32) == WrapPadding()
    assert wrap_padding("wrap", info, 32) == WrapPadding(36, 36)
    assert wrap_padding("wrap_x", info, 36) == WrapPadding(columns=36)
    assert wrap_padding("wrap_y", info, 37) == WrapPadding(rows=48)


def test_another_mode_is_refused() -> None:
    with pytest.raises(BadOptionError, match="tiling mode is 'mirror'; choose one of none, wrap, wrap_x, wrap_y"):
        UpscaleOptions(tiling_mode="mirror")  # type: ignore[arg-type]


@pytest.mark.parametrize("wraparound", [0, 4, 16])
def test_tiles_at_the_edges_of_wrapping_windows_show_the_other_side(wraparound: int) -> None:
    plan = plan_tiles(200, 90, ModelInfo("toy", 1, 3, 3, alignment=8), max_side=48, overlap=32)
    for axis in (plan.rows, plan.columns):
        last = len(axis.origins) - 1
        for index, origin in enumerate(axis.origins):
            shown = [place for run in tile_slices(axis, index, wraparound) for place in range(run.start, run.stop)]
            expected = list(range(origin, origin + axis.tile))
            if wraparound and 4 * wraparound <= axis.overlap and index == 0:
                expected[-wraparound:] = range(axis.canvas - wraparound, axis.canvas)
            if wraparound and 4 * wraparound <= axis.overlap and index == last:
                expected[:wraparound] = range(wraparound)
            assert shown == expected
    assert len(tile_slices(plan.rows, 0, wraparound)) == 1 + (wraparound == 4)
