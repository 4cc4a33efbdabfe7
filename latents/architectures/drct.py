"""DRCT (Hsu et al., arXiv 2404.00722), and DRCTFIR, whose body ends in SwinFIR's spatial-frequency block (sfb.py)
instead of a convolution.

Raw VAE latents [N, C, h, w], sides multiples of the window, to [N, C, h * scale, w * scale]. Trained for latents by
github.com/styler00dollar/ComfyUI-sudo-latent-upscale: 4 channels, scale 2, twelve groups, 27.44 M and 27.86 M
parameters.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from spandrel.architectures.DRCT import DRCT
from torch import Tensor, nn

from .loading import count_of, of_groups, scale_of, sides_of, window_of
from .sfb import SFB
from .windows import as_it_comes, with_own_attention

_LAST = "conv_after_body."


class Sizes(NamedTuple):
    """Of a network; the defaults are the published ones. `growth`: channels that each block adds to the next one's.
    `hidden`: channels within DRCTFIR's last block; 0: DRCT."""

    channels: int = 4
    embed: int = 180
    groups: int = 12
    heads: int = 6
    window: int = 16
    mlp: float = 2.0
    growth: int = 32
    scale: int = 2
    hidden: int = 0


class LatentDRCT(DRCT):
    """spandrel's DRCT, with another block after its body where it is DRCTFIR, and without its mean, which is a
    picture's."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__(
            img_size=2 * sizes.window,  # the least whose windows are shifted
            in_chans=sizes.channels,
            embed_dim=sizes.embed,
            depths=(6,) * sizes.groups,  # each group has five blocks whatever is given here
            num_heads=(sizes.heads,) * sizes.groups,
            window_size=sizes.window,
            mlp_ratio=sizes.mlp,
            upscale=sizes.scale,
            upsampler="pixelshuffle",
            resi_connection="identity" if sizes.hidden else "1conv",
            gc=sizes.growth,
        )
        if sizes.hidden:
            self.conv_after_body = SFB(sizes.embed, sizes.hidden)
        with_own_attention(self)

    def forward(self, x: Tensor) -> Tensor:
        return as_it_comes(self, x)


def network_for(weights: Mapping[str, Tensor]) -> nn.Module:
    """As large as the one that a state dict is of."""
    sizes = sizes_of(weights)
    return of_groups(lambda count: LatentDRCT(sizes._replace(groups=count)), (None,) * sizes.groups)


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
        hidden=sides_of(weights, f"{_LAST}S.body.0.weight", (None, embed, 3, 3))[0] if _is_block(weights) else 0,
    )


def _is_block(weights: Mapping[str, Tensor]) -> bool:
    """The body ends in more than a convolution, which has a weight and a bias."""
    return any(key.startswith(_LAST) and "." in key[len(_LAST) :] for key in weights)
