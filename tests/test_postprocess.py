"""The output's health: nothing happens to a healthy picture, and what is broken is mended without harm to the rest."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import zoo
from PIL import Image
from torch import Tensor

from cudaspeed.images.quantiles import quantiles
from cudaspeed.models.loader import DEFAULT_MODEL, load_model, resolve_model
from cudaspeed.postprocess import FrameVerdict, heal

NAN, INF = float("nan"), float("inf")
EXAMPLE = Path(__file__).absolute().parent.parent / "examples" / "chelsea.png"


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


@pytest.mark.parametrize("value", [7.0, -7.0])
def test_one_pixel_too_bright_is_clamped_and_nothing_else_is_touched(value: float) -> None:
    source, output = photograph()
    before = output.clone()
    output[50, 40] = value
    assert heal(output, source) == FrameVerdict()
    assert (output[50, 40] == (value > 0)).all()
    output[50, 40] = before[50, 40]
    assert torch.equal(output, before)


@pytest.mark.parametrize(
    ("value", "dtype"),
    [(1e6, torch.float32), (-1e6, torch.bfloat16), (3e38, torch.float32), (-60000.0, torch.float16)],
)
def test_a_wild_pixel_is_filled_from_the_source_and_nothing_else_is_touched(value: float, dtype: torch.dtype) -> None:
    source, output = photograph()
    output = output.to(dtype)
    before = output.clone()
    output[50, 40] = value
    assert heal(output, source) == FrameVerdict(wild=3)
    assert float((output - before)[50, 40].abs().max()) < 0.25
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


@pytest.fixture(scope="module")
def upscaled() -> tuple[Tensor, Tensor, Tensor]:
    """A photograph [H, W, 3], its half, and what the bundled model makes of the half, unclamped."""
    picture = torch.from_numpy(np.array(Image.open(EXAMPLE).convert("RGB"))).permute(2, 0, 1)[None] / 255
    picture = picture[..., :300, :400]
    half = F.interpolate(picture, scale_factor=0.5, mode="bicubic", antialias=True).clamp(0, 1)
    with torch.inference_mode():
        output = load_model(resolve_model(DEFAULT_MODEL)).model(half)
    picture, half, output = (x[0].permute(1, 2, 0).contiguous() for x in (picture, half, output))
    return picture, half, output.clone()


@pytest.mark.parametrize(
    "breakage",
    [
        lambda x: 3 * x,
        lambda x: 255 * x,
        lambda x: (255 * x).half(),
        lambda x: x + 1.5,
        lambda x: x - 2,
        lambda x: x * torch.tensor([3.0, 1, 1]),
        lambda x: x + torch.tensor([0.0, 2, -1]),
    ],
    ids=["x3", "x255", "x255 in fp16", "+1.5", "-2", "red x3", "green +2, blue -1"],
)
def test_a_broken_photograph_comes_back_as_good_as_unbroken(
    breakage: Callable[[Tensor], Tensor], upscaled: tuple[Tensor, Tensor, Tensor]
) -> None:
    picture, half, unbroken = upscaled
    output = breakage(unbroken).clone()
    assert heal(output, half) == FrameVerdict(broken=True, corrected=True)
    unbroken = unbroken.clamp(0, 1)
    assert psnr(output, unbroken) > 50
    assert psnr(output, picture) > psnr(unbroken, picture) - 0.1


@pytest.mark.parametrize("scale", [1, 3, 4])
def test_a_scaled_picture_is_brought_back_at_any_scale(scale: int) -> None:
    source, _ = photograph()
    truth = source.repeat_interleave(scale, 0).repeat_interleave(scale, 1)
    output = (3 * truth).permute(2, 0, 1).contiguous().permute(1, 2, 0)  # as models give it
    assert heal(output, source).corrected
    assert psnr(output, truth) > 50


@pytest.mark.parametrize("alpha", ["opaque", "nearly opaque", "faded"])
def test_alpha_keeps_its_values_where_only_the_colours_are_broken(alpha: str) -> None:
    source, _ = photograph(4)
    if alpha == "faded":
        source[..., 3] = torch.linspace(0, 1, 48)
    else:
        source[..., 3] = 1.0
    if alpha == "nearly opaque":
        source[30, 10:14, 3] = 0.5
    truth = source.repeat_interleave(2, 0).repeat_interleave(2, 1)
    output = truth * torch.tensor([3.0, 3, 3, 1])
    assert heal(output, source).corrected
    assert psnr(output, truth) > 50


def test_the_overshoot_of_a_sharpening_model_does_not_make_the_corrected_picture_dull() -> None:
    source, truth = photograph()
    planes = truth.permute(2, 0, 1)[None]
    blurred = F.avg_pool2d(planes, 3, 1, 1, count_include_pad=False)
    sharp = (planes + 0.5 * (planes - blurred))[0].permute(1, 2, 0).clone()
    output = 3 * sharp
    assert heal(output, source).corrected
    assert psnr(output, sharp.clamp(0, 1)) > 40


def test_garbage_in_a_part_of_the_picture_does_not_change_the_rest() -> None:
    source, truth = photograph()
    output = truth.clone()
    output[:2], output[-2:] = 50.0, -50.0  # more than one percent at either end
    assert heal(output, source).broken
    assert psnr(output[2:-2], truth[2:-2]) > 40


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


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0, 3.0, -1000.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_constant_frame_of_a_picture_with_something_to_see_is_told_of(value: float, dtype: torch.dtype) -> None:
    source, truth = photograph()
    output = torch.full_like(truth, value, dtype=dtype)
    assert heal(output, source).constant
    assert (output == min(max(value, 0), 1)).all()


def test_a_constant_frame_with_a_few_holes_is_constant_and_a_frame_of_holes_is_not() -> None:
    source, truth = photograph()
    output = torch.full_like(truth, 0.5)
    output[7, :30] = NAN
    assert heal(output, source) == FrameVerdict(90, constant=True)
    output = torch.full_like(truth, INF)
    assert not heal(output, source).constant


def test_faint_detail_is_not_constant() -> None:
    source, truth = photograph()
    output = 0.5 + 0.001 * truth
    assert heal(output, source) == FrameVerdict()
    output = torch.zeros_like(truth)
    output[3, 3] = 1.0  # a star in the night
    assert heal(output, source) == FrameVerdict()


@pytest.mark.parametrize(
    "breakage", [lambda x: 3 * x, lambda x: 255 * x, lambda x: x + 1.5], ids=["x3", "x255", "+1.5"]
)
def test_a_broken_page_of_nearly_one_colour_comes_back_with_its_stroke(breakage: Callable[[Tensor], Tensor]) -> None:
    source, truth = page()
    output = breakage(truth)
    assert heal(output, source) == FrameVerdict(broken=True, corrected=True)
    assert psnr(output, truth) > 40


def test_a_fine_grey_hatch_keeps_both_its_shades() -> None:
    source = torch.zeros(16, 16, 1)
    source[:, ::2] = 1.0
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
    assert heal(output, source) == FrameVerdict(wild=3, broken=True, corrected=True)
    assert psnr(output, truth) > 30
    assert psnr(output[1:], truth[1:]) > 50


@pytest.mark.filterwarnings("error")
def test_a_broken_picture_of_one_grey_pixel_is_clamped_without_a_word() -> None:
    output = torch.full((2, 2, 1), 4.0)
    assert heal(output, torch.full((1, 1, 1), 0.5)).broken
    assert (output == 1).all()


SHARES = (0.0, 0.01, 0.25, 0.5, 0.9, 0.99, 1.0)


def assert_quantiles(values: Tensor, shares: tuple[float, ...] = SHARES) -> None:
    """`quantiles` are numpy's of the finite values, computed in float64, to the last digits."""
    finite = values.double().flatten().numpy()
    expected = np.quantile(finite[np.isfinite(finite)], shares)
    assert quantiles(values, shares) == pytest.approx(expected, rel=1e-9, abs=0)


def drawn(name: str, count: int) -> Tensor:
    """`count` random numbers of a distribution that is hard for some way of finding quantiles."""
    generator = torch.Generator().manual_seed(0)
    uniform = torch.rand(count, generator=generator)
    normal = torch.randn(count, generator=generator)
    return {
        "picture": lambda: normal * 0.2 + 0.5,
        "constant": lambda: torch.full((count,), 0.25),
        "two values": lambda: (uniform < 0.01).float() * 255 - 3,
        "8 bits": lambda: (uniform * 255).round() / 255,
        "heavy tails": lambda: normal * (uniform * 138 - 69).exp(),  # 1e-30 .. 1e30, of both signs
        "denormals": lambda: normal * 1e-41,
        "zeros of both signs": lambda: (normal * 1e-3).round() * normal.sign(),
        "half NaN": lambda: normal.where(uniform < 0.5, NAN),
        "infinities": lambda: normal.where(uniform < 0.4, INF).where(uniform > 0.2, -INF),
        "one outlier": lambda: torch.cat([uniform[1:], torch.tensor([-1e30])]),
        "one finite": lambda: torch.cat([torch.full((count - 1,), NAN), torch.tensor([-0.7])]),
        "largest": lambda: normal.sign() * torch.finfo(torch.float32).max,
        "ascending": lambda: uniform.sort().values,
    }[name]()


NAMES = ("picture", "constant", "two values", "8 bits", "heavy tails", "denormals", "zeros of both signs", "half NaN",
         "infinities", "one outlier", "one finite", "largest", "ascending")  # fmt: skip


@pytest.mark.parametrize("count", [1, 2, 3, 1000, (1 << 20) + 1001])
@pytest.mark.parametrize("name", NAMES)
def test_quantiles_are_numpys(name: str, count: int) -> None:
    values = drawn(name, count)
    if values.isfinite().any():
        assert_quantiles(values)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", ["picture", "8 bits", "heavy tails", "infinities", "denormals"])
def test_quantiles_of_short_floats(name: str, dtype: torch.dtype) -> None:
    assert_quantiles(drawn(name, 30_000).to(dtype))  # float16 has infinities for heavy tails


@pytest.mark.parametrize("name", ["picture", "one outlier"])
def test_quantiles_of_more_values_than_torch_quantile_takes(name: str) -> None:
    assert_quantiles(drawn(name, (1 << 24) + 5), (0.01, 0.99))


@pytest.mark.parametrize(
    "look",
    [
        lambda x: x.permute(1, 2, 0),
        lambda x: x[:2, 5:, ::3],
        lambda x: x[:1].expand(4, -1, -1),
        lambda x: x.flip(1).T,
        lambda x: x[0, 0, 0],
    ],
    ids=["permuted", "cropped", "expanded", "transposed", "a scalar"],
)
@pytest.mark.filterwarnings("ignore:The use of `x.T`")
def test_quantiles_of_any_shape_and_layout(look: Callable[[Tensor], Tensor]) -> None:
    values = drawn("picture", 3 * 70 * 90).reshape(3, 70, 90)
    before = values.clone()
    assert_quantiles(look(values))
    assert torch.equal(values, before)


def test_quantiles_of_nothing_finite_are_zero() -> None:
    assert quantiles(torch.full((4, 4, 3), NAN), (0.01, 0.99)) == (0.0, 0.0)
    assert quantiles(torch.tensor([INF, -INF]), (0.5,)) == (0.0,)
    assert quantiles(torch.empty(0, 3), (0.5,)) == (0.0,)


def test_detail_in_a_few_rows_of_a_large_picture_is_detail() -> None:
    source = torch.linspace(0, 1, 200 * 4000).reshape(200, 4000, 1)
    output = torch.full((800, 16000, 1), 3.0)
    output[1] += 0.5
    assert not heal(output, source).constant
    assert heal(torch.full((800, 16000, 1), 3.0), source).constant
