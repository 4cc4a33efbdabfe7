"""What OpenVINO compiled, in memory, called with torch's tensors."""

from __future__ import annotations

from threading import Lock
from typing import Any

import torch
from torch import Tensor


class OpenVinoForward:
    """x [N, C, h, w] float32 in main memory -> float32, the caller's own. Raises `RuntimeError` where OpenVINO refuses.

    `compiled` is a compiled model of OpenVINO's, with one input and one output.
    """

    def __init__(self, compiled: Any) -> None:
        self.compiled = compiled
        self._request = compiled.create_infer_request()
        self._alone = Lock()  # a request computes one batch at a time

    def __call__(self, x: Tensor) -> Tensor:
        with self._alone:
            (result,) = self._request.infer([x.contiguous().numpy()], share_inputs=True).values()  # copied out
        return torch.from_numpy(result)
