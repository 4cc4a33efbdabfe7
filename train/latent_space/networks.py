"""Networks to train, of the sizes that there are published files of, or smaller ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

from torch import nn

from cudaspeed.latents.architectures import craft, dat, drct, swinfir
from cudaspeed.latents.architectures.convolutions import LatentConvolutions, Layer
from cudaspeed.models.meshgrid import ExplicitMeshgrid

Architecture = Literal["swinfir", "drct", "drctfir", "dat", "craft", "convolutions"]
ARCHITECTURES: tuple[Architecture, ...] = get_args(Architecture)

_HEADS = 2 * 6  # DAT has half of them in each half of the channels
_WHOLE: dict[Architecture, Callable[..., nn.Module]] = {
    "swinfir": lambda embed=96, groups=4, **shared: swinfir.SwinFIR(
        swinfir.Sizes(embed=embed, depths=(6,) * groups, hidden=embed, **shared)
    ),
    "drct": lambda embed=180, groups=12, **shared: drct.LatentDRCT(drct.Sizes(embed=embed, groups=groups, **shared)),
    "drctfir": lambda embed=180, groups=12, **shared: drct.LatentDRCT(
        drct.Sizes(embed=embed, groups=groups, hidden=embed, **shared)
    ),
    "dat": lambda embed=270, groups=6, **shared: dat.network_of(dat.Sizes(embed=embed, depths=(6,) * groups, **shared)),
    "craft": lambda embed=180, groups=7, **shared: craft.UnpaddedCRAFT(
        craft.Sizes(embed=embed, depths=(6,) * groups, **shared)
    ),
}


def network_of(architecture: Architecture, channels: int, scale: float, sizes: dict[str, int]) -> nn.Module:
    """A network with random weights for latents of so many `channels`.

    `sizes`: "embed", channels within, and "groups" of six blocks, where they are not to be the published ones; of
    "convolutions" only the former. Raises `ValueError` for a scale or sizes that the architecture has not.
    """
    if architecture == "convolutions":
        if channels != 4 or "groups" in sizes:
            raise ValueError(f"convolutions are for latents of 4 channels (here {channels}), and always seventeen")
        width = sizes.get("embed", 64)
        rows = [Layer(width, width, 3)] * 16  # by their number a file is known
        return LatentConvolutions(scale, [Layer(4, width, 3), *rows, Layer(width, 4, 3)])
    if scale not in (2, 3, 4):
        raise ValueError(f"{architecture} enlarges by 2, 3 or 4, and these pairs are for {scale:g}; take convolutions")
    if sizes.get("embed", _HEADS) % _HEADS:
        raise ValueError(f"embed is {sizes['embed']}; {architecture} needs a multiple of {_HEADS}, two for each head")
    with ExplicitMeshgrid():
        return _WHOLE[architecture](channels=channels, scale=int(scale), **sizes)
