"""What a picture must be before any work is spent on it."""

from __future__ import annotations

import torch
from torch import Tensor

from ..api.errors import BadImageError

_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
# Values should be 0..1. What others leave beyond is clamped where the model's picture is made (channels.py), within:
_BRIGHTEST = 16.0  # four stops above white, as renderers leave highlights; 0..255 is far beyond
# Resizing undershoots, by this share of the brightest value at most: bicubic weights (a = -0.75, as torch's) add up to
# 1.375 in magnitude, 1.89 in two dimensions, hence to -0.445 beside white; Lanczos-3 to -0.35. -1..1 is beyond.
_UNDERSHOOT = 0.5
_SIGNED = 1.5  # -1..1, with the overshoot of resizing that
_ROUNDING = 1 / 255  # nobody sees what is less


def validate_image(image: Tensor) -> str | None:
    """Raise `BadImageError` unless `image` is [B, H, W, C] with pixels, 1 to 4 channels, floats of 16 to 64 bits, whose
    values are 0..1, or so little beyond that they are to be clamped: up to 16, down to half of the brightest below 0.

    Of the values, it names the first frame that has a NaN, an infinity or another range, and what to do about it.
    Returns a note for the user where clamping takes away more than rounding leaves, or there is no frame (B = 0).
    """
    _check_form(image)
    if not len(image):
        return "the batch has no frames: there was nothing to upscale, and the result has none"
    frames = image[:1] if image.stride(0) == 0 else image  # one frame, repeated by expand()
    ends = [_checked_ends(index, frame) for index, frame in enumerate(frames)]
    low, high = min(low for low, _ in ends), max(high for _, high in ends)
    if low >= -_ROUNDING and high <= 1 + _ROUNDING:
        return None
    return f"the input's values, {low:.3g} to {high:.3g}, were clamped to 0 to 1"


def _check_form(image: Tensor) -> None:
    if not isinstance(image, Tensor):
        raise BadImageError(f"the image is a {type(image).__name__}; a torch tensor of floats from 0 to 1 is needed")
    if image.ndim != 4:
        raise BadImageError(f"the image has shape {tuple(image.shape)}; [batch, height, width, channels] is needed")
    if 0 in image.shape[1:3]:
        raise BadImageError(f"the image has no pixels (shape {tuple(image.shape)})")
    if not 1 <= image.shape[-1] <= 4:
        raise BadImageError(
            f"the image has {image.shape[-1]} channels (shape {tuple(image.shape)}); 1 to 4 are supported"
        )
    if image.is_floating_point() and image.dtype not in _FLOATS:
        raise BadImageError(f"the image is of type {image.dtype}; convert it to torch.float32")
    if image.dtype not in _FLOATS:
        raise BadImageError(
            f"the image is of type {image.dtype}; floats from 0 to 1 are needed, divide integers by their maximum"
        )


def _checked_ends(index: int, frame: Tensor) -> tuple[float, float]:
    """The least and the largest value of frame `index`."""
    low, high = (float(end) for end in torch.aminmax(frame))  # both NaN where there is one
    least = -_UNDERSHOOT * max(1.0, high)
    if least <= low <= high <= _BRIGHTEST and (high > 0 or low >= -_ROUNDING):
        return low, high
    bad = int((~torch.isfinite(frame)).sum())
    if bad:
        raise BadImageError(
            f"{bad} values of frame {index} are NaN or infinite; find the node before this one that makes them "
            "(a VAE decode in half precision is the usual one)"
        )
    if low >= least:
        remedy = "divide 8-bit values by 255, 16-bit ones by 65535"
    elif low >= -_SIGNED and high <= _SIGNED:
        remedy = "where -1 to 1 is meant, hand over (x + 1) / 2"
    else:
        remedy = "hand over (x - low) / (high - low) with the ends that are meant"
    raise BadImageError(
        f"frame {index} has values from {low:g} to {high:g}; the range is 0 to 1, "
        f"and only {least:g} to {_BRIGHTEST:g} can be clamped to it: {remedy}"
    )
