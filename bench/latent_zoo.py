"""Latent upscalers at their published sizes, with random weights, as the files that their publishers have."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save_file
from spandrel.architectures.DAT import DAT
from spandrel.architectures.DRCT import DRCT
from torch import nn

from cudaspeed.latents.architectures import craft, drct, resizer, sesqui, swinfir
from cudaspeed.latents.architectures.convolutions import V1, LatentConvolutions
from cudaspeed.models.meshgrid import ExplicitMeshgrid

_SIDE = 64  # of the latents that published DAT and DRCT keep masks for


def _dat(groups: int) -> nn.Module:
    sizes = {"embed_dim": 270, "split_size": [8, 16], "depth": [6] * groups, "num_heads": [6] * groups}
    return DAT(in_chans=4, img_size=_SIDE, upsampler="pixelshuffle", upscale=2, expansion_factor=2.0, **sizes)


def _drct() -> nn.Module:
    sizes = {"embed_dim": 180, "window_size": 16, "depths": (6,) * 12, "num_heads": (6,) * 12, "gc": 32, "mlp_ratio": 2}
    return DRCT(in_chans=4, img_size=_SIDE, upsampler="pixelshuffle", upscale=2, **sizes)


MADE: dict[str, Callable[[], nn.Module]] = {
    "DAT6x6_l1_eV2-b0_265k_1.5": lambda: _dat(6),
    "DAT12x6_l1_eV2-b0_contextual_315k_1.5": lambda: _dat(12),
    "CRAFT7x6_l1_eV2-b0_150k_1.5": lambda: craft.UnpaddedCRAFT(craft.Sizes()),
    "SwinFIR4x6_mse_64k_sdxl": lambda: swinfir.SwinFIR(swinfir.Sizes()),
    "DRCT-l_12x6_325k_l1_sdxl": _drct,
    "DRCTFIR-l_12x6_215k_l1_sdxl": lambda: drct.LatentDRCT(drct.Sizes(hidden=180)),
    "latent-upscaler-v1.0_SDv1-x2.0": lambda: LatentConvolutions(2.0, V1),
    "latent-upscaler-v2.1_SDxl-x2.0": lambda: LatentConvolutions(2.0),
    "sdxl_resizer": lambda: resizer.Resizer(resizer.Sizes()),
    "upscaler_SDXL": lambda: sesqui.Sesqui(sesqui.Sizes()),
}
"""By the names of files, without their endings."""


def network(name: str) -> nn.Module:
    """The one of `MADE`, as its publisher's code would have it: DAT and DRCT are spandrel's."""
    torch.manual_seed(0)
    with ExplicitMeshgrid():
        return MADE[name]().eval().requires_grad_(False)


def write(name: str, folder: Path, ending: str = "safetensors") -> tuple[nn.Module, Path]:
    """`network`, and a file of its weights in `folder`: safetensors, or "pth"."""
    made, path = network(name), folder / f"{name}.{ending}"
    weights = {key: weight.contiguous() for key, weight in made.state_dict().items()}
    if ending == "pth":
        torch.save({"params": weights}, path)
    else:
        save_file(weights, path)
    return made, path
