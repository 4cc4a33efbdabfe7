"""The output's health: nothing happens to a healthy picture, and what is broken is mended without harm to the rest."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from cudaspeed.postprocess import FrameVerdict, heal, quantiles

from . import zoo

NAN, INF = float("nan"), float("inf")


def photograph(channels: int = 3, height: int = 64, width: int = 48) -> tuple[Tensor, Tensor]:
    """A picture and what a perfect model makes of it, inside 0..1 with a little room."""
    source = 0.05 + 0.9 * zoo.photograph(height, width, channels)[0]
    return source, source.repeat_interleave(2, 0).repeat_interleave(2, 1)


def page(channels: int = 3) -> tuple[Tensor, Tensor]:
    """White paper with one short black stroke, less than one percent of it, and its upscaled twin."""
    source = torch.ones(64, 48, channels)
    source[30, 10:14] = 0.0
    return source, source.repeat_interleave(2, 0).repeat_interleave(2, 1)


def psnr(a: Tensor, b: Tensor) -> float:
    error = float((a.float() - b.float()).square().mean())
    return math.inf if error == 0 else -10 * math.log10(error)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_a_picture_in_range_passes_bit_for_bit(channels: int, dtype: torch.dtype) -> None:
    source, output = photograph(channels)
    output = output.to(dtype)
    output[0, 0], output[0, 1], output[0, 2] = 0.0, 1.0, torch.finfo(dtype).tiny
    before = output.clone()
    assert heal(output, source) == FrameVerdict()
    assert torch.equal(output, before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_strays_of_a_healthy_network_are_clamped_and_nothing_else_is_touched(dtype: torch.dtype) -> None:
    source, output = photograph()
    output = (output + 0.12 * torch.randn(output.shape, generator=torch.Generator().manual_seed(0))).to(dtype)
    output[0, 0], output[0, 1] = -0.10, 1.11
    before = output.clone()
    assert heal(output, source) == FrameVerdict()
    inside = (before >= 0) & (before <= 1)
    assert 0.5 < float(inside.float().mean()) < 1.0
    assert torch.equal(output[inside], before[inside])
    assert (output[before < 0] == 0).all()
    assert (output[before > 1] == 1).all()


@pytest.mark.parametrize("value", [1e6, -1e6, 7.0, 3e38])
def test_one_wild_pixel_changes_nothing_but_itself(value: float) -> None:
    source, output = photograph()
    before = output.clone()
    output[50, 40] = value
    assert heal(output, source) == FrameVerdict()
    assert (output[50, 40] == (value > 0)).all()
    output[50, 40] = before[50, 40]
    assert torch.equal(output, before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_holes_are_filled_from_the_source_and_counted(value: float, dtype: torch.dtype) -> None:
    source, output = photograph()
    output = output.to(dtype)
    before = output.clone()
    holes = torch.zeros_like(output, dtype=torch.bool)
    holes[20:30, 30:45], holes[100, 3, 1] = True, True
    output[holes] = value
    verdict = heal(output, source)
    assert (verdict.non_finite, verdict.broken) == (10 * 15 * 3 + 1, False)
    assert torch.equal(output[~holes], before[~holes])
    assert float((output - before)[holes].abs().mean()) < 0.05
    assert float((output - before)[holes].abs().max()) < 0.25


def test_a_frame_of_nothing_but_holes_becomes_the_source() -> None:
    source, truth = photograph()
    output = torch.full_like(truth, NAN)
    assert heal(output, source).non_finite == output.numel()
    assert psnr(output, truth) > 25


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    "breakage",
    [
        lambda x: 3 * x,
        lambda x: 255 * x,
        lambda x: x + 1.5,
        lambda x: x - 2,
        lambda x: 40 * x - 7,
        lambda x: 3 * x.half(),
    ],
    ids=["x3", "x255", "+1.5", "-2", "x40-7", "x3 in fp16"],
)
def test_a_scaled_or_shifted_picture_is_brought_back(breakage: Callable[[Tensor], Tensor], channels: int) -> None:
    source, truth = photograph(channels)
    output = breakage(truth)
    assert heal(output, source) == FrameVerdict(broken=True, corrected=True)
    assert psnr(output, truth) > 40


@pytest.mark.parametrize(
    "breakage",
    [
        lambda x: 9 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0)),
        lambda x: 3 - 3 * x,
        lambda x: 3 * x.flip(1),
    ],
    ids=["noise", "negative", "mirrored"],
)
def test_what_is_not_the_picture_any_more_is_clamped_not_stretched(breakage: Callable[[Tensor], Tensor]) -> None:
    source, truth = photograph()
    source[:, :20] = truth[:, :40] = 0.1  # a picture that its mirror image is unlike
    output = breakage(truth)
    expected = output.clamp(0, 1)
    assert heal(output, source) == FrameVerdict(broken=True, corrected=False)
    assert torch.equal(output, expected)


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_a_constant_frame_in_range_is_left_alone(value: float) -> None:
    output = torch.full((16, 16, 3), value)
    assert heal(output, torch.full((8, 8, 3), 0.5)) == FrameVerdict()
    assert (output == value).all()


@pytest.mark.parametrize(
    ("value", "becomes", "broken"), [(1.05, 1, False), (-0.2, 0, False), (3, 1, True), (-9, 0, True)]
)
def test_a_constant_frame_out_of_range_is_clamped(value: float, becomes: int, broken: bool) -> None:
    output = torch.full((16, 16, 3), float(value))
    assert heal(output, torch.full((8, 8, 3), 0.5)) == FrameVerdict(broken=broken)
    assert (output == becomes).all()


@pytest.mark.parametrize(
    "breakage", [lambda x: 3 * x, lambda x: 255 * x, lambda x: x + 1.5], ids=["x3", "x255", "+1.5"]
)
def test_a_broken_page_of_nearly_one_colour_is_not_an_error(breakage: Callable[[Tensor], Tensor]) -> None:
    source, truth = page()
    output = breakage(truth)
    assert heal(output, source).broken
    assert 0 <= float(output.min()) <= float(output.max()) <= 1
    assert psnr(output, truth) > 20


def test_a_fine_grey_hatch_keeps_both_its_shades() -> None:
    source = torch.zeros(16, 16, 1)
    source[:, ::2] = 1.0
    assert quantiles(source) == (0.0, 1.0)
    truth = source.repeat_interleave(2, 0).repeat_interleave(2, 1)
    output = 3 * truth
    heal(output, source)
    assert psnr(output, truth) > 30


def test_holes_in_a_picture_that_is_also_scaled_are_filled_as_bright_as_the_rest() -> None:
    source, truth = photograph()
    output = 3 * truth
    output[20:30, 20:40] = NAN
    assert heal(output, source) == FrameVerdict(600, broken=True, corrected=True)
    assert float((output - truth)[20:30, 20:40].abs().mean()) < 0.05
    assert psnr(output, truth) > 30


def test_one_wild_pixel_does_not_keep_a_scaled_picture_from_being_brought_back() -> None:
    source, truth = photograph()
    output = 3 * truth
    output[0, 0] = 1e6
    assert heal(output, source).corrected
    assert psnr(output[1:], truth[1:]) > 30


@pytest.mark.filterwarnings("error")
def test_a_broken_picture_of_one_grey_pixel_is_clamped_without_a_word() -> None:
    output = torch.full((2, 2, 1), 4.0)
    assert heal(output, torch.full((1, 1, 1), 0.5)).broken
    assert (output == 1).all()


def test_more_values_than_torch_quantile_takes() -> None:
    source = torch.linspace(0, 1, 42 * 42).reshape(42, 42, 1)
    truth = source.repeat_interleave(100, 0).repeat_interleave(100, 1)
    assert truth.numel() > 1 << 24
    output = 3 * truth
    assert heal(output, source) == FrameVerdict(broken=True, corrected=True)
    assert float((output[::50, ::50] - truth[::50, ::50]).abs().max()) < 0.02


@pytest.mark.parametrize("shape", [(300, 200, 3), (123, 457, 1), (640, 480, 4), (1300, 900, 2), (1500, 1000, 3)])
@pytest.mark.parametrize(
    "draw",
    [
        lambda rng, shape: rng.random(shape),
        lambda rng, shape: rng.normal(0.5, 0.2, shape),
        lambda rng, shape: rng.exponential(0.1, shape),
        lambda rng, shape: (rng.random(shape) < 0.3).astype(float),
        lambda rng, shape: np.full(shape, 0.25),
    ],
    ids=["uniform", "normal", "exponential", "two values", "one value"],
)
def test_quantiles_are_numpys(draw: Callable[..., np.ndarray], shape: tuple[int, ...]) -> None:
    values = draw(np.random.default_rng(0), shape).astype(np.float32)
    assert quantiles(torch.from_numpy(values)) == pytest.approx(np.quantile(values, [0.01, 0.99]), abs=1e-2)


@pytest.mark.parametrize("channels", [2, 3, 4])
@pytest.mark.parametrize("pixels", [100, 400_000, 2_000_000])
def test_quantiles_see_every_channel(channels: int, pixels: int) -> None:
    values = torch.zeros(pixels // 100, 100, channels)
    values[..., 1] = 1.0
    assert quantiles(values) == (0.0, 1.0)


def test_quantiles_do_not_see_what_is_not_finite() -> None:
    values = torch.linspace(0, 1, 1000).reshape(10, 100, 1).repeat(1, 1, 3)
    values[0, :50], values[9, 50:] = -INF, NAN
    assert quantiles(values) == pytest.approx((0.06, 0.94), abs=0.011)
    assert quantiles(torch.full((4, 4, 3), NAN)) == (0.0, 0.0)
