"""SwinFIR (Zhang et al., arXiv 2208.11247): SwinIR whose groups of blocks end in a spatial-frequency block (sfb.py).

Raw VAE latents [N, C, h, w], sides multiples of the window, to [N, C, h * scale, w * scale]. Trained for latents by
github.com/styler00dollar/ComfyUI-sudo-latent-upscale: 4 channels, scale 2, four groups of six blocks, 3.82 M
parameters.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from spandrel.architectures.SwinIR import SwinIR
from torch import Tensor, nn

from .loading import count_of, of_groups, scale_of, sides_of, window_of
from .sfb import SFB
from .windows import as_it_comes, with_own_attention

_BLOCKS = "layers.{}.residual_group.blocks."


class Sizes(NamedTuple):
    """Of a network; the defaults are the published ones. `depths`: blocks of each group. `hidden`: channels within the
    blocks' convolutions."""

    channels: int = 4
    embed: int = 96
    depths: Sequence[int] = (6, 6, 6, 6)
    heads: int = 6
    window: int = 8
    mlp: float = 4.0
    scale: int = 2
    hidden: int = 96


class SwinFIR(SwinIR):
    """spandrel's SwinIR with other convolutions in its groups, and without its padding and mean, which are a picture's:
    the caller pads."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__(
            img_size=2 * sizes.window,  # the least whose windows are shifted
            in_chans=sizes.channels,
            embed_dim=sizes.embed,
            depths=list(sizes.depths),
            num_heads=[sizes.heads] * len(sizes.depths),
            window_size=sizes.window,
            mlp_ratio=sizes.mlp,
            upscale=sizes.scale,
            upsampler="pixelshuffle",
        )
        for group in self.layers:
            group.conv = SFB(sizes.embed, sizes.hidden)
        with_own_attention(self)

    def forward(self, x: Tensor) -> Tensor:
        return as_it_comes(self, x)


def network_for(weights: Mapping[str, Tensor]) -> nn.Module:
    """As large as the one that a state dict is of."""
    sizes = sizes_of(weights)
    return of_groups(lambda count: SwinFIR(sizes._replace(depths=sizes.depths[:count])), sizes.depths)


def sizes_of(weights: Mapping[str, Tensor]) -> Sizes:
    """Of the network that a state dict is of."""
    embed, channels, _, _ = sides_of(weights, "conv_first.weight", (None, None, 3, 3))
    first = _BLOCKS.format(0)
    window, heads = window_of(weights, f"{first}0.attn.relative_position_bias_table")
    return Sizes(
        channels=channels,
        embed=embed,
        depths=[count_of(weights, _BLOCKS.format(group)) for group in range(count_of(weights, "layers."))],
        heads=heads,
        window=window,
        mlp=sides_of(weights, f"{first}0.mlp.fc1.weight", (None, embed))[0] / embed,
        scale=scale_of(weights),
        hidden=sides_of(weights, "layers.0.conv.S.body.0.weight", (None, embed, 3, 3))[0],
    )
