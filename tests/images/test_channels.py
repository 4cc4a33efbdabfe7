"""Any picture through any model: grey, RGB and RGBA, each comes back as what it was."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import zoo
from clocks import new_sessions
from spandrel import ImageModelDescriptor
from torch import Tensor

from cudaspeed.api.errors import BadModelError, BadOptionError, ModelFailedError
from cudaspeed.api.model_info import ModelInfo
from cudaspeed.api.options import AlphaMode, UpscaleOptions
from cudaspeed.api.report import UpscaleResult
from cudaspeed.host.standalone import StandaloneContext
from cudaspeed.images.channels import plan_channels
from cudaspeed.upscale_engine import upscale

PICTURES = pytest.mark.parametrize("picture", [1, 2, 3, 4])
MODELS = pytest.mark.parametrize("model", [1, 3, 4])


def same(x: Tensor) -> Tensor:
    return x


def upscaled(
    frame: Tensor, model: int, change: Callable[[Tensor], Tensor] = same, alpha_mode: AlphaMode = "auto"
) -> Tensor:
    """`frame` [H, W, C] through a model of `model` channels that doubles pixels, then does `change` to [N, C, h, w]."""
    plan = plan_channels(frame.shape[-1], ModelInfo("toy", 2, model, model), alpha_mode, [frame[..., -1]])
    seen = plan.to_model(frame)
    assert seen.shape == (plan.pictures_per_frame, model, *frame.shape[:2])
    output = change(seen.repeat_interleave(2, 2).repeat_interleave(2, 3))
    return plan.from_model(output.permute(0, 2, 3, 1), frame)


def doubled(frame: Tensor) -> Tensor:
    return frame.repeat_interleave(2, 0).repeat_interleave(2, 1)


def photograph(channels: int) -> Tensor:
    return zoo.photograph(20, 24, channels)[0]


def with_mask(channels: int) -> Tensor:
    """A picture whose last channel, alpha, is 0 in its left half and 1 in its right."""
    frame = photograph(channels)
    frame[:, :12, -1], frame[:, 12:, -1] = 0.0, 1.0
    return frame


@MODELS
@PICTURES
def test_a_picture_keeps_its_channels_and_its_colours(picture: int, model: int) -> None:
    frame = photograph(picture)
    before = frame.clone()
    result = upscaled(frame, model)
    colours = 1 if picture <= 2 else 3
    assert result.shape == (40, 48, picture)
    assert torch.allclose(result[..., :colours], doubled(frame)[..., :colours], atol=1e-6)
    assert torch.equal(frame, before)


@MODELS
@pytest.mark.parametrize("picture", [2, 4])
def test_alpha_by_lanczos_is_kept_whatever_becomes_of_the_colours(picture: int, model: int) -> None:
    frame = with_mask(picture)
    result = upscaled(frame, model, lambda x: 1 - x, "lanczos")
    alpha, visible = result[..., -1], slice(24, None)
    assert torch.allclose(result[:, visible, :-1], 1 - doubled(frame)[:, visible, :-1], atol=1e-6)
    assert float(alpha.min()) >= 0
    assert float(alpha.max()) <= 1
    assert (alpha[:, :18] == 0).all()
    assert (alpha[:, 30:] == 1).all()
    assert (alpha.diff(dim=1) >= -0.05).all(), "one edge, as there was"


@MODELS
@pytest.mark.parametrize("picture", [2, 4])
def test_alpha_with_edges_is_upscaled_by_the_model(picture: int, model: int) -> None:
    frame = with_mask(picture)
    assert torch.equal(upscaled(frame, model)[..., -1], doubled(frame)[..., -1])
    assert torch.equal(upscaled(frame, model, alpha_mode="model")[..., -1], doubled(frame)[..., -1])


@pytest.mark.parametrize("picture", [2, 4])
@pytest.mark.parametrize("model", [1, 3])
def test_holes_in_the_models_alpha_are_filled(picture: int, model: int) -> None:
    holes = torch.tensor([float("nan"), float("inf"), -float("inf")]).repeat(16)
    alpha = upscaled(with_mask(picture), model, lambda x: x + torch.where(x < 2, holes, x))[..., -1]
    assert (alpha[:, :18] == 0).all()
    assert (alpha[:, 30:] == 1).all()
    assert 0 <= float(alpha.min()) <= float(alpha.max()) <= 1


@PICTURES
@MODELS
def test_a_result_is_judged_by_the_colours_that_the_model_saw(picture: int, model: int) -> None:
    frame = with_mask(picture) if picture in (2, 4) else photograph(picture)
    plan = plan_channels(picture, ModelInfo("toy", 2, model, model), "auto", [frame[..., -1]])
    reference = plan.reference(frame)
    whole = picture in (1, 3) or model == 4
    assert reference.shape == (20, 24, picture if whole else picture - 1)
    seen = plan.to_model(frame)
    made = plan.from_model(seen.repeat_interleave(2, 2).repeat_interleave(2, 3).permute(0, 2, 3, 1), frame)
    assert torch.allclose(made[..., : reference.shape[-1]], doubled(reference), atol=1e-6)


@pytest.mark.parametrize("picture", [2, 4])
@pytest.mark.parametrize("model", [1, 3])
def test_a_models_errors_do_not_reach_what_is_opaque_or_clear(picture: int, model: int) -> None:
    alpha = upscaled(with_mask(picture), model, lambda x: 0.03 + 0.9 * x)[..., -1]
    assert (alpha[:, :18] == 0).all()
    assert (alpha[:, 30:] == 1).all()
    assert torch.allclose(alpha[:, 20:24], torch.tensor(0.03))


@pytest.mark.parametrize("model", [1, 3])
def test_alpha_the_model_does_not_take_is_smooth_where_the_models_pixels_are_not(model: int) -> None:
    frame = photograph(4)
    frame[..., 3] = torch.linspace(0, 1, 24)
    steps = upscaled(frame, model)[..., 3].diff(dim=1)
    assert (steps > 0).all()


@pytest.mark.parametrize("picture", [2, 4])
def test_an_rgba_model_upscales_alpha_itself(picture: int) -> None:
    result = upscaled(with_mask(picture), 4, lambda x: torch.cat([x[:, :3], 0.25 + 0.5 * x[:, 3:]], 1))
    assert torch.equal(result[..., -1], 0.25 + 0.5 * doubled(with_mask(picture))[..., -1])


@PICTURES
def test_an_rgba_model_is_given_alpha_and_opaque_where_there_is_none(picture: int) -> None:
    frame = photograph(picture)
    seen: list[Tensor] = []
    upscaled(frame, 4, lambda x: seen.append(x) or x)
    alpha = doubled(frame)[..., -1] if picture in (2, 4) else torch.ones(40, 48)
    assert torch.equal(seen[0][0, 3], alpha)


@pytest.mark.parametrize("picture", [3, 4])
def test_a_grey_model_sees_a_colour_picture_as_three_grey_ones(picture: int) -> None:
    frame = photograph(picture)
    factors = torch.tensor([1.0, 0.5, 0.25])
    result = upscaled(frame, 1, lambda x: x * factors[:, None, None, None], "lanczos")
    assert torch.allclose(result[..., :3], doubled(frame)[..., :3] * factors)


@pytest.mark.parametrize("picture", [1, 2])
@pytest.mark.parametrize("model", [3, 4])
def test_a_grey_picture_through_a_colour_model_comes_back_grey(picture: int, model: int) -> None:
    frame = photograph(picture)
    tint = torch.tensor([0.0, 0.1, 0.2, 0.0][:model])[:, None, None]
    result = upscaled(frame, model, lambda x: x + tint)
    assert result.shape[-1] == picture
    assert torch.allclose(result[..., 0], doubled(frame)[..., 0] + 0.1, atol=1e-6)


def test_results_keep_the_models_type() -> None:
    frame = photograph(4)
    assert upscaled(frame, 3, lambda x: x.half()).dtype == torch.float16


@pytest.mark.parametrize(("takes", "gives"), [(2, 3), (5, 5), (3, 2), (12, 3)])
def test_a_model_of_unusual_channels_is_refused_by_number(takes: int, gives: int) -> None:
    with pytest.raises(BadModelError, match=rf"toy takes {takes} and gives {gives} channels; choose a model for grey"):
        plan_channels(3, ModelInfo("toy", 2, takes, gives))


def run(image: Tensor, model: ImageModelDescriptor, **options: object) -> UpscaleResult:
    asked = UpscaleOptions(**{"precision": "fp32", "compile": False, **options})  # type: ignore[arg-type]
    return upscale(image, model, asked, StandaloneContext("cpu"), new_sessions())


def converter(takes: int, gives: int, scale: int = 2) -> ImageModelDescriptor:
    """A toy that makes pictures of `gives` channels of ones of `takes`; alpha stays alpha where it has both."""

    def change(x: Tensor) -> Tensor:
        colour = x[:, :3].mean(dim=1, keepdim=True) if gives == 1 else x[:, :3].expand(-1, 3, -1, -1)
        return torch.cat([colour, x[:, 3:] if takes == 4 else torch.ones_like(x[:, :1])], 1) if gives == 4 else colour

    model = zoo.toy(scale, change)
    model.input_channels, model.output_channels = takes, gives
    return model


@PICTURES
@pytest.mark.parametrize(("takes", "gives"), [(1, 3), (3, 1), (4, 3), (3, 4), (1, 4), (4, 1)])
@pytest.mark.parametrize("alpha_mode", ["auto", "model", "lanczos"])
def test_models_that_change_the_number_of_channels(picture: int, takes: int, gives: int, alpha_mode: str) -> None:
    image = with_mask(picture)[None] if picture in (2, 4) else photograph(picture)[None]
    result = run(image, converter(takes, gives), alpha_mode=alpha_mode).image
    assert result.shape == (1, 40, 48, picture)
    wanted = doubled(image[0])[:, 24:]
    if picture >= 3 and 1 in (takes, gives):  # such a model gives no colour
        wanted = torch.cat([wanted[..., :3].mean(-1, keepdim=True).expand(-1, -1, 3), wanted[..., 3:]], -1)
    assert torch.allclose(result[0, :, 30:], wanted[:, 6:], atol=1e-5)
    if picture in (2, 4):
        assert (result[0, :, :18, -1] == 0).all()
        assert 0 <= float(result[..., -1].min()) <= float(result[..., -1].max()) <= 1


@PICTURES
@pytest.mark.parametrize("model", [1, 3, 4])
def test_eight_times(picture: int, model: int) -> None:
    image = with_mask(picture)[None] if picture in (2, 4) else photograph(picture)[None]
    result = run(image, zoo.toy(8, channels=model), tile=16).image
    assert result.shape == (1, 160, 192, picture)
    wanted = image.repeat_interleave(8, 1).repeat_interleave(8, 2)
    assert torch.allclose(result[:, :, 96:], wanted[:, :, 96:], atol=1e-5)


@PICTURES
def test_a_restorer_leaves_alpha_alone(picture: int) -> None:
    image = with_mask(picture)[None] if picture in (2, 4) else photograph(picture)[None]
    result = run(image, zoo.grey_denoiser()).image
    assert result.shape == image.shape
    assert 0 <= float(result.min()) <= float(result.max()) <= 1
    if picture in (2, 4):
        assert torch.equal(result[..., -1], image[..., -1])


def test_an_rgba_models_alpha_can_be_declined() -> None:
    model = zoo.toy(2, lambda x: torch.cat([x[:, :3], 0.5 * x[:, 3:]], 1), channels=4)
    image = with_mask(4)[None]
    assert float(run(image, model).image[..., 3].max()) == 0.5
    result = run(image, model, alpha_mode="lanczos").image
    assert (result[:, :, 30:, 3] == 1).all()
    assert torch.allclose(result[:, :, 24:, :3], doubled(image[0])[None, :, 24:, :3], atol=1e-6)


@pytest.mark.parametrize("picture", [2, 4])
def test_half_precision_leaves_opaque_opaque(picture: int) -> None:
    result = run(with_mask(picture)[None], zoo.compact(), precision="bf16", alpha_mode="model").image[0, ..., -1]
    assert (result[:, :18] == 0).all()
    assert (result[:, 30:] == 1).all()


@pytest.mark.parametrize("alpha_mode", ["model", "lanczos"])
@pytest.mark.parametrize("picture", [2, 4])
def test_alpha_and_hidden_colours_do_not_keep_a_broken_picture_from_being_mended(picture: int, alpha_mode: str) -> None:
    frame = with_mask(picture)
    frame[:, :12, :-1] = 0
    result = run(frame[None], zoo.toy(2, lambda x: 4 * x + 1), alpha_mode=alpha_mode)
    assert result.report.health.corrected_frames == (0,)
    assert torch.allclose(result.image[0, :, 30:], doubled(frame)[:, 30:], atol=1e-3)
    assert (result.image[0, :, :18, -1] == 0).all()
    with pytest.raises(ModelFailedError, match="one and the same value for all of frame 0"):
        run(frame[None], zoo.toy(2, lambda x: 0 * x + 0.5), alpha_mode=alpha_mode)


def test_alpha_beyond_its_range_comes_back_within() -> None:
    frame = with_mask(4)
    frame[..., 3] = 1.5 * frame[..., 3] - 0.2
    for mode in ("model", "lanczos"):
        alpha = run(frame[None], zoo.toy(), alpha_mode=mode).image[0, ..., 3]
        assert (float(alpha.min()), float(alpha.max())) == (0, 1)


def test_another_alpha_mode_is_refused() -> None:
    with pytest.raises(BadOptionError, match="alpha mode is 'bicubic'; choose one of auto, model, lanczos"):
        UpscaleOptions(alpha_mode="bicubic")  # type: ignore[arg-type]
