"""DRCT (Hsu et al., arXiv 2404.00722) whose body ends in SwinFIR's spatial-frequency block (sfb.py) instead of a
convolution.

Raw VAE latents [N, C, h, w], sides multiples of the window, to [N, C, h * scale, w * scale]. Trained for latents by
github.com/styler00dollar/ComfyUI-sudo-latent-upscale: 4 channels, scale 2, twelve groups, 27.86 M parameters.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from spandrel.architectures.DRCT import DRCT
from torch import Tensor, nn

from .loading import PUBLISHED_SIDE, count_of, filled, sides_of, trained_side, window_of
from .sfb import SFB
from .swinfir import scale_of
from .windows import with_own_attention


class Sizes(NamedTuple):
    """Of a network; the defaults are the published ones. `growth`: channels that each block adds to the next one's.
    `trained`: the side of the latents that masks are kept for. `hidden`: channels within the last block."""

    channels: int = 4
    embed: int = 180
    groups: int = 12
    heads: int = 6
    window: int = 16
    mlp: float = 2.0
    growth: int = 32
    scale: int = 2
    trained: int = PUBLISHED_SIDE
    hidden: int = 180


class DRCTFIR(DRCT):
    """spandrel's DRCT with another block after its body, and without its mean, which is a picture's."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__(
            img_size=sizes.trained,
            in_chans=sizes.channels,
            embed_dim=sizes.embed,
            depths=(6,) * sizes.groups,  # each group has five blocks whatever is given here
            num_heads=(sizes.heads,) * sizes.groups,
            window_size=sizes.window,
            mlp_ratio=sizes.mlp,
            upscale=sizes.scale,
            upsampler="pixelshuffle",
            resi_connection="identity",
            gc=sizes.growth,
        )
        self.conv_after_body = SFB(sizes.embed, sizes.hidden)
        with_own_attention(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_first(x)
        x = self.conv_after_body(self.forward_features(x)) + x
        return self.conv_last(self.upsample(self.conv_before_upsample(x)))


def from_weights(weights: Mapping[str, Tensor]) -> nn.Module:
    """The network that a state dict is of."""
    return filled(DRCTFIR(sizes_of(weights)), weights)


def sizes_of(weights: Mapping[str, Tensor]) -> Sizes:
    """Of the network that a state dict is of."""
    embed, channels, _, _ = sides_of(weights, "conv_first.weight", (None, None, 3, 3))
    window, heads = window_of(weights, "layers.0.swin1.attn.relative_position_bias_table")
    return Sizes(
        channels=channels,
        embed=embed,
        groups=count_of(weights, "layers."),
        heads=heads,
        window=window,
        mlp=sides_of(weights, "layers.0.swin1.mlp.fc1.weight", (None, embed))[0] / embed,
        growth=sides_of(weights, "layers.0.adjust1.weight", (None, embed, 1, 1))[0],
        scale=scale_of(weights),
        trained=trained_side(weights, "layers.0.swin2.attn_mask", window),
        hidden=sides_of(weights, "conv_after_body.S.body.0.weight", (None, embed, 3, 3))[0],
    )
