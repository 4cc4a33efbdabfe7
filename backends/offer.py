"""The engines that are tried beside torch's own, and which of them made what."""

from __future__ import annotations

import torch

from .errors import CompileError
from .interface import Engine
from .openvino import OpenVino
from .openvino_library import PREFIX
from .tensorrt import TensorRt

ENGINES: tuple[Engine, ...] = (TensorRt(for_rtx=True), TensorRt(), OpenVino())
"""In the order in which they are tried: where TensorRT for RTX is installed and knows the card, it comes first."""


def usable(device: torch.device) -> list[Engine]:
    """Those that are installed, and lack nothing, for what torch computes on `device`."""
    return [engine for engine in ENGINES if not engine.lacks(device)]


def bytes_held(name: str, file_bytes: int) -> int:
    """Of memory where it computes, by what is loaded of a file of so many bytes that the engine of that name made; ""
    is torch's own, whose weights lie in the file."""
    maker = _named(name)
    return maker.bytes_held(file_bytes) if maker else file_bytes


def engine(name: str) -> Engine:
    """The one of that name; "openvino:GPU" is OpenVINO on that device. Raises `CompileError` where there is none."""
    found = _named(name)
    if found is None:
        raise CompileError(f"{name} made it, and there is no such engine here")
    return found


def _named(name: str) -> Engine | None:
    if name.startswith(PREFIX):
        return OpenVino(name.removeprefix(PREFIX))
    return next((one for one in ENGINES if one.name == name), None)
