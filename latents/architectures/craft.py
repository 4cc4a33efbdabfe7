"""CRAFT (Li et al., Feature Modulation Transformer, arXiv 2308.05022), spandrel's network without its padding.

Raw VAE latents [N, C, h, w], sides multiples of both sides of the windows (16), to [N, C, h * scale, w * scale].
Trained for latents by github.com/styler00dollar/ComfyUI-sudo-latent-upscale: 4 channels, scale 2, seven groups of six,
windows of 4x16 and 16x4, 46.14 M parameters. Each value of its result depends on all of the latent.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from spandrel.architectures.CRAFT import CRAFT
from torch import Tensor, nn

from .loading import count_of, of_groups, sides_of

_FUSIONS = "layers.{}.residual_group.hf_blocks."
_FIRST = "layers.0.residual_group.srwa_blocks.0"


class Sizes(NamedTuple):
    """Of a network; the defaults are the published ones. `depths`: blocks of each group, `window`: its short and its
    long side."""

    channels: int = 4
    embed: int = 180
    depths: Sequence[int] = (6,) * 7
    heads: int = 6
    window: tuple[int, int] = (4, 16)
    mlp: float = 2.0
    scale: int = 2


class UnpaddedCRAFT(CRAFT):
    """spandrel's CRAFT pads by one more window where nothing is to be filled up, and subtracts a picture's mean; since
    it attends to all of what it is given, both would change all of the result."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__(
            in_chans=sizes.channels,
            embed_dim=sizes.embed,
            depths=list(sizes.depths),
            window_size=math.lcm(*sizes.window),  # which spandrel only pads for
            num_heads=[sizes.heads] * len(sizes.depths),
            split_size_0=sizes.window[0],
            split_size_1=sizes.window[1],
            mlp_ratio=sizes.mlp,
            upscale=sizes.scale,
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_first(x)
        return self.upsample(self.conv_after_body(self.forward_features(x)) + x)


def network_for(weights: Mapping[str, Tensor]) -> nn.Module:
    """As large as the one that a state dict is of."""
    sizes = sizes_of(weights)
    return of_groups(lambda count: UnpaddedCRAFT(sizes._replace(depths=sizes.depths[:count])), sizes.depths)


def sizes_of(weights: Mapping[str, Tensor]) -> Sizes:
    """Of the network that a state dict is of."""
    embed, channels, _, _ = sides_of(weights, "conv_first.weight", (None, None, 3, 3))
    return Sizes(
        channels=channels,
        embed=embed,
        depths=[count_of(weights, _FUSIONS.format(group)) for group in range(count_of(weights, "layers."))],
        heads=sides_of(weights, _FUSIONS.format(0) + "0.attn.temperature", (None, 1, 1))[0],
        window=_window_of(weights),
        mlp=sides_of(weights, f"{_FIRST}.mlp.fc1.weight", (None, embed))[0] / embed,
        scale=math.isqrt(sides_of(weights, "upsample.0.weight", (None, embed, 3, 3))[0] // channels),
    )


def _window_of(weights: Mapping[str, Tensor]) -> tuple[int, int]:
    """The sides a <= b of the windows, of which there are a * b pixels and (2a - 1)(2b - 1) places of one as seen from
    another."""
    pixels, _ = sides_of(weights, "relative_position_index_h", (None, None))
    places, _ = sides_of(weights, "biases_h", (None, 2))
    total = (4 * pixels + 1 - places) // 2  # a + b
    short = (total - math.isqrt(max(0, total**2 - 4 * pixels))) // 2
    sides_of(weights, "relative_position_index_h", (short * (total - short),) * 2)
    return short, total - short
