"""DAT (Chen et al., arXiv 2308.03364), spandrel's network.

Raw VAE latents [N, C, h, w] to [N, C, h * scale, w * scale]. Trained for latents by
github.com/styler00dollar/ComfyUI-sudo-latent-upscale: 4 channels, scale 2, six or twelve groups of six, windows of 8x16
and 16x8, 24.44 M and 47.91 M parameters.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from spandrel.architectures.DAT import DAT
from torch import Tensor, nn

from .loading import count_of, of_groups, scale_of, sides_of
from .masks import with_shared_masks, with_shared_places

_FIRST = "layers.0.blocks.0."
_PLACES = f"{_FIRST}attn.attns.0.rpe_biases"


class Sizes(NamedTuple):
    """Of a network; the defaults are the published ones. `depths`: blocks of each group, `window`: its rows and columns
    in the one half of the channels, columns and rows in the other."""

    channels: int = 4
    embed: int = 270
    depths: Sequence[int] = (6,) * 6
    heads: int = 6
    window: tuple[int, int] = (8, 16)
    mlp: float = 2.0
    scale: int = 2


def network_of(sizes: Sizes) -> nn.Module:
    """A network with random weights."""
    network: Any = DAT(
        img_size=math.lcm(*sizes.window),
        in_chans=sizes.channels,
        embed_dim=sizes.embed,
        split_size=list(sizes.window),
        depth=list(sizes.depths),
        num_heads=[sizes.heads] * len(sizes.depths),
        expansion_factor=sizes.mlp,
        upscale=sizes.scale,
        upsampler="pixelshuffle",
    )
    with_shared_masks(network)
    with_shared_places(network)
    network.window_size = math.lcm(*sizes.window)  # as SwinIR and DRCT have it
    return network


def network_for(weights: Mapping[str, Tensor]) -> nn.Module:
    """As large as the one that a state dict is of."""
    sizes = sizes_of(weights)
    return of_groups(lambda count: network_of(sizes._replace(depths=sizes.depths[:count])), sizes.depths)


def sizes_of(weights: Mapping[str, Tensor]) -> Sizes:
    """Of the network that a state dict is of."""
    embed, channels, _, _ = sides_of(weights, "conv_first.weight", (None, None, 3, 3))
    groups = count_of(weights, "layers.")
    return Sizes(
        channels=channels,
        embed=embed,
        depths=[count_of(weights, f"layers.{group}.blocks.") for group in range(groups)],
        heads=2 * sides_of(weights, f"{_FIRST}attn.attns.0.pos.pos3.2.weight", (None, None))[0],
        window=_window_of(weights),
        mlp=sides_of(weights, f"{_FIRST}ffn.fc1.weight", (None, embed))[0] / embed,
        scale=scale_of(weights),
    )


def _window_of(weights: Mapping[str, Tensor]) -> tuple[int, int]:
    """(rows, columns), by the place of the last pixel as seen from the first, the last of (2 rows - 1)(2 columns - 1)
    places that the file lists."""
    places, _ = sides_of(weights, _PLACES, (None, 2))
    rows, columns = (int(place) + 1 for place in weights[_PLACES][-1])
    if (2 * rows - 1) * (2 * columns - 1) != places:
        raise ValueError(f"{_PLACES}: {places} rows do not end in the place of a window's last pixel")
    return rows, columns
