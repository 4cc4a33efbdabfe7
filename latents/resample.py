"""Latents made another size without a network: for what a network's own scale leaves to be done."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .options import LatentResampling

_ALIKE = 1e-5  # cosines this near to 1 or -1 have no plane to turn in


def resample(latents: Tensor, size: tuple[int, int], how: LatentResampling) -> Tensor:
    """Latents [F, C, h, w] of float32 -> [F, C, *size].

    "area" takes means of what a value stands for. "bislerp" is bilinear, but turns from one pixel's vector of channels
    to the next and takes the length in between: means of latents are shorter than latents are (Shoemake, Animating
    rotation with quaternion curves, 1985, has the turning).
    """
    if how == "area":
        return F.interpolate(latents, size=size, mode="area")
    return _along(_along(latents, size[1]).transpose(2, 3), size[0]).transpose(2, 3)


def _along(latents: Tensor, length: int) -> Tensor:
    """[F, C, h, w] -> [F, C, h, length]: each value between the two nearest, as bilinear interpolation places it."""
    have = latents.shape[-1]
    places = ((torch.arange(length, device=latents.device) + 0.5) * (have / length) - 0.5).clamp(0, have - 1)
    before = places.floor().long()
    return _between(latents[..., before], latents[..., (before + 1).clamp(max=have - 1)], places - before)


def _between(one: Tensor, other: Tensor, share: Tensor) -> Tensor:
    """What lies a `share` of the way from `one` to the `other`, by their channels (dimension 1)."""
    lengths = [some.norm(dim=1, keepdim=True) for some in (one, other)]
    units = [
        some / length.clamp(min=torch.finfo(some.dtype).tiny)
        for some, length in zip((one, other), lengths, strict=True)
    ]
    cosine = (units[0] * units[1]).sum(dim=1, keepdim=True)
    angle = cosine.clamp(-1 + _ALIKE, 1 - _ALIKE).acos()
    turned = ((1 - share) * angle).sin() * units[0] + (share * angle).sin() * units[1]
    turned = turned / angle.sin() * torch.lerp(lengths[0], lengths[1], share)
    flat = (cosine.abs() > 1 - _ALIKE) | (lengths[0] == 0) | (lengths[1] == 0)
    return torch.where(flat, torch.lerp(one, other, share), turned)
