"""SD-Latent-Upscaler v1 and v2 (github.com/city96/SD-Latent-Upscaler): a convolution, the nearest of its values at each
place of the larger latent, and a row of convolutions.

Raw VAE latents [N, 4, h, w] to [N, 4, floor(h * scale), floor(w * scale)]. The scale, 1.25, 1.5 or 2, is no part of the
weights. v2: 3x3, 64 channels, sixteen in the row and one more, 0.60 M parameters; v1: 5x5 and 7x7, 0.51 M.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from torch import Tensor, nn

from .loading import sides_of, unfilled


class Layer(NamedTuple):
    """A convolution; `side` of its kernels."""

    inputs: int
    outputs: int
    side: int


V1 = (Layer(4, 64, 5), Layer(64, 64, 7), Layer(64, 64, 7), Layer(64, 32, 7), Layer(32, 4, 5))
V2 = (Layer(4, 64, 3), *[Layer(64, 64, 3)] * 16, Layer(64, 4, 3))
SCALES = (1.25, 1.5, 2.0)
"""That there are weights for."""


class LatentConvolutions(nn.Module):
    """`layers` with ReLUs between; what the first gives is enlarged by `scale`."""

    def __init__(self, scale: float, layers: Sequence[Layer] = V2) -> None:
        super().__init__()
        first, *others = map(_convolution, layers)
        parts: list[nn.Module] = [first, nn.ReLU(), nn.Upsample(scale_factor=scale, mode="nearest")]
        for convolution in others:
            # The published network has a ReLU after enlarging too, which finds nothing below zero: its place is kept.
            parts += [nn.ReLU() if len(parts) > 3 else nn.Identity(), convolution]
        self.sequential = nn.Sequential(*parts)

    def forward(self, x: Tensor) -> Tensor:
        return self.sequential(x)


def network_for(weights: Mapping[str, Tensor], scale: float) -> nn.Module:
    """As large as the one that a state dict is of; either version, told apart by its kernels."""
    return unfilled(lambda: LatentConvolutions(scale, layers_of(weights)))


def layers_of(weights: Mapping[str, Tensor]) -> list[Layer]:
    """The convolutions that a state dict is of."""
    places = [0, 4]
    while any(f"sequential.{places[-1] + 2}.{part}" in weights for part in ("weight", "bias")):
        places.append(places[-1] + 2)
    shapes = [sides_of(weights, f"sequential.{place}.weight", (None, None, None, None)) for place in places]
    return [Layer(inputs, outputs, side) for outputs, inputs, side, _ in shapes]


def _convolution(layer: Layer) -> nn.Conv2d:
    return nn.Conv2d(layer.inputs, layer.outputs, layer.side, padding=layer.side // 2)
