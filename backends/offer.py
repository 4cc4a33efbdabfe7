"""The engines that are tried beside torch's own, and which of them made what."""

from __future__ import annotations

import torch

from .interface import Engine
from .openvino import OpenVino

ENGINES: tuple[Engine, ...] = (OpenVino(),)
"""In the order in which they are tried."""


def usable(device: torch.device) -> list[Engine]:
    """Those that are installed, and lack nothing, for what torch computes on `device`."""
    return [engine for engine in ENGINES if not engine.lacks(device)]


def engine(name: str) -> Engine:
    """The one of that name. Raises `RuntimeError` where there is none."""
    for one in ENGINES:
        if one.name == name:
            return one
    raise RuntimeError(f"it was compiled by {name}, of which nothing is known here; it has to be compiled anew")
