"""How much of a device's memory is for us, and how much of that for weights: VRAM states as ComfyUI names them, with
its thresholds (`load_models_gpu` in `comfy/model_management.py`, 0.33).

Inside ComfyUI its own answers hold, and nothing of this is asked.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from .backends import Backend, backend_of
from .reserve import asked_reserve, usual_reserve

VramState = Literal["disabled", "no", "low", "normal", "high", "shared"]
"""disabled: there is no device beside the CPU. shared: the device computes in main memory. no: weights come layer by
layer, and none stays. low, normal: what fits beside the work stays. high: all stay, and are never moved away."""

# What is kept free beside weights for any forward (ComfyUI's `minimum_inference_memory`, less the reserve).
_LEAST_WORK = int(0.8 * (1 << 30))


@dataclass(frozen=True)
class Vram:
    """What may be done with the memory of `device`. `reserve`: bytes left to other programs. `least_share_of_weights`:
    as in `Backend`."""

    device: torch.device
    state: VramState
    reserve: int
    least_share_of_weights: float = 0.0

    @property
    def offload_device(self) -> torch.device:
        """Where weights wait that nothing is computed with."""
        return self.device if self.state == "high" else torch.device("cpu")

    def room_for_weights(self, available: int, work: int) -> int | None:
        """Bytes of weights that may lie on the device while forwards take `work` bytes, of `available`, which weights
        that lie there already are part of; None for all weights, whatever there is."""
        if self.state == "no":
            return 0
        if self.state not in ("low", "normal"):
            return None
        least = min(int(available * self.least_share_of_weights), available - _LEAST_WORK - self.reserve)
        return max(0, available - max(work, _LEAST_WORK) - self.reserve, least)


def vram_of(device: torch.device, reserve_gib: float | None = None) -> Vram:
    """What may be done with the memory of `device` outside ComfyUI: `reserve_gib` GiB of it are left to others, by
    itself `usual_reserve`. Raises `BadOptionError` for a reserve that is no amount, or all that the device has."""
    backend = backend_of(device)
    memory = backend.memory(device) if backend else None
    total = memory.total if memory else None
    reserve = usual_reserve(device.type, total) if reserve_gib is None else asked_reserve(reserve_gib, total)
    return Vram(device, _state(backend), reserve, backend.least_share_of_weights if backend else 0.0)


def _state(backend: Backend | None) -> VramState:
    if backend is None or backend.own_memory:
        return "normal"
    return "disabled" if backend.kind == "cpu" else "shared"
