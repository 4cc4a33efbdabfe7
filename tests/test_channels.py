"""Any picture through any model: grey, RGB and RGBA, each comes back as what it was."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from cudaspeed.channels import plan_channels
from cudaspeed.contracts import BadModelError, ModelTraits

from . import zoo

PICTURES = pytest.mark.parametrize("picture", [1, 2, 3, 4])
MODELS = pytest.mark.parametrize("model", [1, 3, 4])


def same(x: Tensor) -> Tensor:
    return x


def upscaled(frame: Tensor, model: int, change: Callable[[Tensor], Tensor] = same) -> Tensor:
    """`frame` [H, W, C] through a model of `model` channels that doubles pixels, then does `change` to [N, C, h, w]."""
    plan = plan_channels(frame.shape[-1], ModelTraits("toy", 2, model, model))
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
def test_alpha_is_upscaled_and_kept_whatever_becomes_of_the_colours(picture: int, model: int) -> None:
    frame = with_mask(picture)

    def negative(x: Tensor) -> Tensor:
        """Of the colours; an RGBA model's alpha is its own affair."""
        return torch.cat([1 - x[:, :3], x[:, 3:]], 1)

    result = upscaled(frame, model, negative)
    alpha = result[..., -1]
    assert torch.allclose(result[..., :-1], 1 - doubled(frame)[..., :-1], atol=1e-6)
    assert float(alpha.min()) >= 0
    assert float(alpha.max()) <= 1
    assert (alpha[:, :20] == 0).all()
    assert torch.allclose(alpha[:, 28:], torch.ones(1))
    assert (alpha.diff(dim=1) >= -0.05).all(), "one edge, as there was"


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
    result = upscaled(frame, 1, lambda x: x * factors[:, None, None, None])
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
        plan_channels(3, ModelTraits("toy", 2, takes, gives))
