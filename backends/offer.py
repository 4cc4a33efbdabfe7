"""The engines that are tried beside torch's own."""

from __future__ import annotations

from .interface import Engine
from .tensorrt import TensorRt

ENGINES: tuple[Engine, ...] = (TensorRt(for_rtx=True), TensorRt())
"""In the order in which they are tried: where TensorRT for RTX is installed and knows the card, it comes first."""
