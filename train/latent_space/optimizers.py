"""Optimizers by name: torch's Adam and AdamW, Lamb and Prodigy of the package pytorch-optimizer."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, get_args

import torch
from torch import nn

Name = Literal["adam", "adamw", "lamb", "prodigy"]
NAMES: tuple[Name, ...] = get_args(Name)
RATES: dict[Name, float] = {"adam": 1e-4, "adamw": 1e-4, "lamb": 3e-4, "prodigy": 0.1}
"""Of sudo-latent-upscale, by its README: AdamW for DRCT, Lamb for the first SwinFIR, Prodigy for DAT, CRAFT and later
ones. Prodigy at 1 and at 0.1 made a SwinFIR with a discriminator unstable there."""


def optimizer_of(name: Name, parameters: Iterable[nn.Parameter], rate: float) -> torch.optim.Optimizer:
    """Raises `ModuleNotFoundError` where pytorch-optimizer is asked for and not installed."""
    if name == "adam":
        return torch.optim.Adam(parameters, rate)
    if name == "adamw":
        return torch.optim.AdamW(parameters, rate)
    import pytorch_optimizer

    kind = pytorch_optimizer.Lamb if name == "lamb" else pytorch_optimizer.Prodigy
    return kind(parameters, lr=rate)
