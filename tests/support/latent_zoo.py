"""Small latent upscalers with random weights of a fixed seed, as files of every family."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save_file
from spandrel.architectures.DAT import DAT
from spandrel.architectures.DRCT import DRCT
from torch import nn

from cudaspeed.latents.architectures import convolutions, craft, drct, resizer, sesqui, swinfir

_GATES = sesqui.GateSizes(8, 64, 16)
_DAT = {"embed_dim": 24, "split_size": [8, 16], "depth": [2, 2], "num_heads": [2, 2], "expansion_factor": 2}
_DRCT = {"embed_dim": 12, "window_size": 16, "depths": (2, 2), "num_heads": (2, 2), "gc": 4, "upscale": 2}

NAMES: dict[str, Callable[[], nn.Module]] = {
    "DAT2x2_1.5": lambda: DAT(in_chans=4, img_size=64, upsampler="pixelshuffle", img_range=1.0, upscale=2, **_DAT),
    "DRCT_sdxl": lambda: DRCT(in_chans=4, img_size=64, upsampler="pixelshuffle", **_DRCT),
    "DRCTFIR_sdxl": lambda: drct.LatentDRCT(drct.Sizes(embed=12, groups=2, heads=2, window=16, growth=4, hidden=12)),
    "SwinFIR_sdxl": lambda: swinfir.SwinFIR(
        swinfir.Sizes(embed=8, depths=(2, 3), heads=2, window=8, mlp=2.0, hidden=8)
    ),
    "SwinFIR_x3_sdxl": lambda: swinfir.SwinFIR(
        swinfir.Sizes(embed=8, depths=(2,), heads=2, window=8, mlp=2.0, scale=3, hidden=8)
    ),
    "CRAFT_1.5": lambda: craft.UnpaddedCRAFT(craft.Sizes(embed=96, depths=(2, 1))),
    "latent-upscaler-v2.1_SDxl-x1.5": lambda: convolutions.LatentConvolutions(1.5),
    "latent-upscaler-v1.0_SDv1-x2.0": lambda: convolutions.LatentConvolutions(2.0, convolutions.V1),
    "sd15_resizer": lambda: resizer.Resizer(resizer.Sizes(width=32, before=(False, True, False), after=(False, True))),
    "upscaler_SDXL": lambda: _sesqui(4),
    "upscaler_Flux2": lambda: _sesqui(32),
}
"""The names of files, without their ending."""


def _sesqui(channels: int) -> nn.Module:
    sizes = {"width": 16, "before": 2, "after": 1, "gates_before": sesqui.GateSizes(8, 64, 12), "lift": 8}
    return sesqui.Sesqui(sesqui.Sizes(channels=channels, gates_within=_GATES, gates_after=_GATES, **sizes))


def network(name: str) -> nn.Module:
    """One of `NAMES`, whose weights keep what goes through it at about its size."""
    generator, made = torch.Generator().manual_seed(0), NAMES[name]().eval().requires_grad_(False)
    for name, weight in made.named_parameters():
        if weight.ndim > 1 and weight.numel():
            weight.copy_(torch.randn(weight.shape, generator=generator) / weight[0].numel() ** 0.5)
        elif name.endswith("bias"):
            weight.copy_(0.1 * torch.randn(weight.shape, generator=generator))
    return made


def file_of(name: str, folder: Path, called: str = "") -> Path:
    """Its weights as safetensors in `folder`, under its name or another."""
    path = folder / f"{called or name}.safetensors"
    save_file({key: value.contiguous() for key, value in network(name).state_dict().items()}, path)
    return path
