"""What a picture must be before any work is spent on it."""

from __future__ import annotations

import torch
from torch import Tensor

from ..api.errors import BadImageError

# Far above what high dynamic range makes of 0..1; 0..255 looks like this.
_BRIGHTEST = 16.0


def check_image(image: Tensor) -> None:
    """Raise `BadImageError` unless `image` is [B, H, W, C] with pixels, 1 to 4 channels, and of a float type."""
    if not isinstance(image, Tensor):
        raise BadImageError(f"the image is a {type(image).__name__}; a torch tensor of floats from 0 to 1 is needed")
    if image.ndim != 4:
        raise BadImageError(f"the image has shape {tuple(image.shape)}; [batch, height, width, channels] is needed")
    if image.numel() == 0:
        raise BadImageError(f"the image has no pixels (shape {tuple(image.shape)})")
    if not 1 <= image.shape[-1] <= 4:
        raise BadImageError(
            f"the image has {image.shape[-1]} channels (shape {tuple(image.shape)}); 1 to 4 are supported"
        )
    if not image.is_floating_point():
        raise BadImageError(
            f"the image is of type {image.dtype}; floats from 0 to 1 are needed, divide integers by their maximum"
        )


def check_finite(image: Tensor) -> None:
    """Raise `BadImageError` for a NaN, an infinity or a 0..255 picture in `image` [B, H, W, C], naming the frame."""
    for index, frame in enumerate(image):
        low, high = torch.aminmax(frame)  # passes NaN on
        if not bool(torch.isfinite(low) & torch.isfinite(high)):
            bad = int((~torch.isfinite(frame)).sum())
            raise BadImageError(
                f"{bad} values of frame {index} are NaN or infinite; find the node before this one that makes them "
                "(a VAE decode in half precision is the usual one)"
            )
        if float(high) > _BRIGHTEST:
            raise BadImageError(
                f"frame {index} has values up to {float(high):g}; the range is 0 to 1: divide 8-bit values by 255"
            )
