"""Loading a compiled package: a shared library made by AOTInductor, with the model's weights in it."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from ..api.model_info import Forward


def load_package(path: Path, device: torch.device) -> Forward:
    """The forward in a package: x [N, C, h, w] float32 on `device` -> its output. Milliseconds; no compiler is asked.

    It checks no shapes: give it only what `TileShapes.fit` accepts. Loading runs the package's code, so the file must
    come from the trusted store. Raises `RuntimeError` for a file that is no package of this torch.
    """
    # torch's public `aoti_load_package` first probes this machine's compiler, for up to a minute in a fresh process.
    loader = torch._C._aoti.AOTIModelPackageLoader(
        str(path), "model", False, 1, -1 if device.index is None else device.index
    )

    def forward(x: Tensor) -> Tensor:
        return loader.run([x.contiguous()])[0]  # the strides, too, are those it was traced with

    return forward
