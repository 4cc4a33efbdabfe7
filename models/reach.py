"""How far a model can see at most, where that is little: what a tile must show around a place for its result there to
be that of the whole picture, but for rounding.

The receptive field (`receptive_field.py`) says where a cut is not seen any more; this, where it has no effect at all.
It is counted on the layers, and tried: what a forward does between them, no layer tells.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from spandrel import ImageModelDescriptor
from torch import Tensor, nn

from ..api.model_info import ModelInfo
from ..kernels.layers import places
from ..tiling.plan import round_up

# Each value of what they give depends on the value in its place alone.
_POINTWISE = (
    nn.BatchNorm2d,
    nn.Dropout,
    nn.Dropout2d,
    nn.ELU,
    nn.GELU,
    nn.Hardswish,
    nn.Identity,
    nn.LeakyReLU,
    nn.Mish,
    nn.PixelShuffle,
    nn.PReLU,
    nn.ReLU,
    nn.ReLU6,
    nn.SiLU,
    nn.Sigmoid,
    nn.Tanh,
)
_DARKER, _ROUNDING = 0.25, 2e-5


def counted_reach(descriptor: ImageModelDescriptor) -> int | None:
    """So many pixels of its input, at most, does a value of the model's output lie from what it depends on; None where
    its layers do not tell: they make fewer pixels, or take in the whole picture."""
    reach = 0
    for module, before, after in places(descriptor.model, descriptor.scale):
        if isinstance(module, nn.Conv2d):
            if after < 1 or after < before or module.padding_mode != "zeros":
                return None
            sides = zip(module.kernel_size, module.dilation, strict=True)
            reach += max((kernel // 2) * dilation for kernel, dilation in sides)
        elif min(before, after) < 1 or not (_is_pointwise(module) or any(True for _ in module.children())):
            return None
    return reach or None


def reaches_no_further(reach: int, info: ModelInfo, forward: Callable[[Tensor], Tensor]) -> bool:
    """Whether what lies further than `reach` input pixels from the middle of a picture changes nothing there but for
    rounding (a kernel may compute several places together). `forward` takes tiles [1, C, h, w] float32 0..1 on the
    CPU. Two forwards, of pictures little larger than that."""
    side = round_up(max(2 * reach + 1 + 2 * max(info.alignment, 4), info.minimum), info.alignment)
    generator = torch.Generator().manual_seed(0)
    one = torch.rand(1, info.in_channels, side, side, generator=generator)
    other = _DARKER * one
    middle, scale = side // 2, info.scale
    seen = slice(middle - reach, middle + reach + 1)
    other[..., seen, seen] = one[..., seen, seen]
    there = slice(middle * scale, (middle + 1) * scale)
    made, made_of_other = (forward(picture)[..., there, there] for picture in (one, other))
    return torch.allclose(made, made_of_other, rtol=_ROUNDING, atol=_ROUNDING)


def _is_pointwise(module: nn.Module) -> bool:
    return isinstance(module, _POINTWISE) or (isinstance(module, nn.Upsample) and module.mode == "nearest")
