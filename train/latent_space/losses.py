"""What a result is measured by: latents [N, C, h, w] against the true ones, and, through a decoder, pictures.

Any kind of SSIM is left out: sudo-latent-upscale's author found all of them unstable, on latents and on decoded
pictures (its README).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

_EDGE = 15  # pixels of the filter below, whose deviation is a tenth of it


@dataclass(frozen=True)
class Weights:
    """Of the parts of a loss; what weighs 0 is not computed. `plain`: L1, or the squared error if `squared`;
    `spectrum`: L1 of Fourier transforms; of decoded pictures `decoded`: L1, `edges`: what `edges_of` leaves, and
    `decoded_spectrum`."""

    plain: float = 1.0
    squared: bool = False
    spectrum: float = 0.0
    decoded: float = 0.0
    edges: float = 0.0
    decoded_spectrum: float = 0.0

    @property
    def through_decoder(self) -> bool:
        return any((self.decoded, self.edges, self.decoded_spectrum))


def loss_of(made: Tensor, true: Tensor, weights: Weights, decode: Callable[[Tensor], Tensor] | None) -> Tensor:
    """A number, for latents in float32. `decode` is asked only where something weighs of pictures."""
    plain = F.mse_loss(made, true) if weights.squared else F.l1_loss(made, true)
    parts = [weights.plain * plain]
    if weights.spectrum:
        parts.append(weights.spectrum * spectral(made, true))
    if weights.through_decoder and decode is not None:
        with torch.no_grad():
            expected = decode(true)
        pictures = decode(made)
        parts.append(weights.decoded * F.l1_loss(pictures, expected))
        if weights.edges:
            parts.append(weights.edges * F.l1_loss(edges_of(pictures), edges_of(expected)))
        if weights.decoded_spectrum:
            parts.append(weights.decoded_spectrum * spectral(pictures, expected))
    return torch.stack(parts).sum()


def spectral(made: Tensor, true: Tensor) -> Tensor:
    """The mean difference of Fourier coefficients, real and imaginary parts each by itself, of what has unit norm."""
    made, true = (torch.view_as_real(torch.fft.rfft2(some.float(), norm="ortho")) for some in (made, true))
    return F.l1_loss(made, true)


def edges_of(pictures: Tensor) -> Tensor:
    """Pictures filtered by the Laplacian of a Gaussian of 15x15 pixels, deviation 1.5 (the high-frequency error norm of
    Ravishankar and Bresler, IEEE TMI 2011, is a norm of it)."""
    place = torch.arange(_EDGE, device=pictures.device) - _EDGE // 2
    squares, variance = (place[:, None] ** 2 + place**2).float(), (0.1 * _EDGE) ** 2
    kernel = torch.exp(-squares / (2 * variance))
    kernel = kernel / kernel.sum() * (squares - 2 * variance) / variance**2
    kernel = (kernel - kernel.mean()).expand(pictures.shape[1], 1, -1, -1)
    return F.conv2d(pictures, kernel, padding=_EDGE // 2, groups=pictures.shape[1])


def contextual(made: Tensor, true: Tensor, bandwidth: float = 0.5) -> Tensor:
    """How far features [N, C, h, w] are from finding a like one each, wherever it is (Mechrez et al., The Contextual
    Loss, arXiv 1803.02077, equations 2 to 4)."""
    mean = true.mean(dim=(0, 2, 3), keepdim=True)
    ones, others = (F.normalize((some - mean).flatten(2), dim=1) for some in (made, true))
    distance = 1 - torch.einsum("ncx,ncy->nxy", ones, others)
    relative = distance / (distance.amin(dim=2, keepdim=True) + 1e-5)
    likeness = torch.softmax((1 - relative) / bandwidth, dim=2)
    return -likeness.amax(dim=1).mean(dim=1).clamp(min=1e-8).log().mean()
