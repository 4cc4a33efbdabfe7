"""The engines that are tried beside torch's own."""

from __future__ import annotations

from functools import partial

from .tensorrt import TensorRt

ENGINES = (partial(TensorRt, for_rtx=True), TensorRt)
"""In the order in which they are preferred: where TensorRT for RTX is installed and knows the card, it comes first."""
