"""Which pictures are taken, which are clamped, and what is said of the others."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
import zoo
from torch import Tensor

from cudaspeed.api.errors import BadImageError
from cudaspeed.api.options import UpscaleOptions
from cudaspeed.host.standalone import StandaloneContext
from cudaspeed.images.validate import validate_image
from cudaspeed.upscale_engine import upscale

FLOATS = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
each_float = pytest.mark.parametrize("dtype", FLOATS, ids=str)


def spanning(low: float, high: float, dtype: torch.dtype = torch.float32, frames: int = 1) -> Tensor:
    """A picture with these extremes."""
    return torch.linspace(low, high, frames * 8 * 9 * 3).reshape(frames, 8, 9, 3).to(dtype)


@each_float
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_floats_from_0_to_1_are_taken(dtype: torch.dtype, channels: int) -> None:
    validate_image(zoo.photograph(8, 8, channels).to(dtype))


@each_float
@pytest.mark.parametrize(("low", "high"), [(-0.02, 1.02), (-0.5, 1), (0, 16), (-8, 16), (-0.001, 0), (1, 1.5)])
def test_what_resizing_or_rounding_or_highlights_leave_is_taken(dtype: torch.dtype, low: float, high: float) -> None:
    validate_image(spanning(low, high, dtype))


@each_float
@pytest.mark.parametrize(
    ("low", "high", "remedy"),
    [
        (-1, 1, r"-0\.5 to 16 .* \(x \+ 1\) / 2"),
        (-1.05, 1.05, r"\(x \+ 1\) / 2"),
        (-1000, 0, r"-0\.5 to 16 .* \(x - low\) / \(high - low\)"),
        (-3, 4, r"-2 to 16 .* \(x - low\) / \(high - low\)"),
        (-128, 127, r"\(x - low\) / \(high - low\)"),
        (0, 255, "divide 8-bit values by 255"),
        (0, 17, "divide 8-bit values by 255"),
        (0, 60000, "16-bit ones by 65535"),
    ],
)
def test_other_ranges_are_one_error_with_values_limits_and_remedy(
    dtype: torch.dtype, low: float, high: float, remedy: str
) -> None:
    image = spanning(low, high, dtype)
    ends = f"{float(image.min()):g} to {float(image.max()):g}"
    with pytest.raises(BadImageError, match=rf"^frame 0 has values from {ends}; the range is 0 to 1, .*{remedy}"):
        validate_image(image)


@each_float
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_values_that_are_no_numbers_are_counted(dtype: torch.dtype, value: float) -> None:
    video = zoo.photograph(8, 8, frames=3).to(dtype)
    video[1, 2, 3:5] = value
    with pytest.raises(BadImageError, match=r"^6 values of frame 1 are NaN or infinite"):
        validate_image(video)


def test_one_frame_of_many_is_found() -> None:
    for frame in (0, 3, 6):
        video = zoo.photograph(8, 8, frames=7)
        video[frame] = video[frame] * 2 - 1
        with pytest.raises(BadImageError, match=f"^frame {frame} has values from -"):
            validate_image(video)


@pytest.mark.parametrize(
    "dtype", [torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.complex64], ids=str
)
def test_what_is_no_float_is_refused(dtype: torch.dtype) -> None:
    with pytest.raises(BadImageError, match=rf"of type {dtype}; floats from 0 to 1 are needed"):
        validate_image(torch.zeros(1, 8, 8, 3, dtype=dtype))


def test_floats_of_8_bits_which_torch_cannot_compare_are_refused() -> None:
    with pytest.raises(BadImageError, match=r"float8_e4m3fn; convert it to torch\.float32"):
        validate_image(torch.zeros(1, 8, 8, 3).to(torch.float8_e4m3fn))


@pytest.mark.parametrize("mode", ["bicubic", "lanczos"])
def test_what_resizing_makes_of_any_picture_is_taken(mode: str) -> None:
    """The worst there is: black and white in the pattern of the weights' signs, over all phases."""
    generator = torch.Generator().manual_seed(0)
    pictures = (torch.rand(64, 1, 12, 12, generator=generator) > 0.5).float()
    if mode == "bicubic":
        large = F.interpolate(pictures, scale_factor=3.7, mode="bicubic")
    else:
        from cudaspeed.images.alpha import lanczos

        large = torch.stack([lanczos(picture[0], 3) for picture in pictures])[:, None]
    assert float(large.min()) < -0.1
    validate_image(large.permute(0, 2, 3, 1))


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_what_is_beyond_is_clamped_for_the_model_and_not_in_the_callers_picture(channels: int) -> None:
    image = zoo.photograph(24, 32, channels, frames=2) * 1.4 - 0.2
    image[0, 5, 5], image[1, 4, 4] = -0.3, 12.0
    before = image.clone()
    seen: list[Tensor] = []  # by the model, also without values (meta), when its memory is estimated
    model = zoo.toy(2, lambda x: seen.append(x) or x)
    options = UpscaleOptions(precision="fp32", compile=False)
    result = upscale(image, model, options, StandaloneContext("cpu"))
    assert torch.equal(image, before)
    tiles = torch.cat([x.flatten() for x in seen if x.device.type == "cpu"])
    assert (float(tiles.min()), float(tiles.max())) == (0, 1)
    assert torch.equal(result.image, upscale(image.clamp(0, 1), model, options, StandaloneContext("cpu")).image)
    assert result.report.warnings == ("the input's values, -0.3 to 12, were clamped to 0 to 1",)


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (-0.003, 1.003), (0.2, 0.4)])
def test_what_rounding_leaves_is_clamped_without_a_word(low: float, high: float) -> None:
    image = torch.linspace(low, high, 300).reshape(1, 10, 10, 3)
    assert validate_image(image) is None


@pytest.mark.parametrize("ends", [(-0.4, 0.0), (-0.3, -0.1), (-1000.0, 0.0), (-5.0, -4.0)])
def test_a_picture_of_which_nothing_would_be_left_is_refused(ends: tuple[float, float]) -> None:
    with pytest.raises(BadImageError, match=f"values from {ends[0]:g} to {ends[1]:g}; the range is 0 to 1"):
        validate_image(torch.linspace(*ends, 300).reshape(1, 10, 10, 3))
