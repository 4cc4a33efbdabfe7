"""A model that takes its time."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file
from spandrel.architectures.SwinIR import SwinIR


def write_slow_model(folder: Path) -> str:
    """SwinIR's light model, which takes some seconds for a small picture, into a folder of models; its file's name."""
    torch.manual_seed(0)
    network = SwinIR(
        img_size=64, window_size=8, depths=[6] * 4, embed_dim=60, num_heads=[6] * 4, mlp_ratio=2, upscale=2,
        upsampler="pixelshuffledirect",
    )  # fmt: skip
    save_file(network.state_dict(), folder / "slow.safetensors")
    return "slow.safetensors"
