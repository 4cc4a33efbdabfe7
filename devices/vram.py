"""How much of a device's memory is for us, and where weights lie: VRAM states as ComfyUI names them (`VRAMState` in
`comfy/model_management.py`, 0.33), as far as they come about outside of it.

Inside ComfyUI its own answers hold, and nothing of this is asked.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from .backends import Backend, backend_of
from .reserve import asked_reserve, usual_reserve

VramState = Literal["disabled", "no", "low", "normal", "shared"]
"""disabled: there is no device beside the CPU. shared: the device computes in main memory. normal: it has its own. Of a
model whose weights do not fit there, and come block by block (`pipeline/offload.py`), low: some of them stay; no: none
but those that have to."""


@dataclass(frozen=True)
class Vram:
    """What may be done with the memory of `device`. `reserve`: bytes left to other programs."""

    device: torch.device
    state: VramState
    reserve: int
    offload_device: ClassVar[torch.device] = torch.device("cpu")
    """Where weights wait that nothing is computed with."""


def vram_of(device: torch.device, reserve_gib: float | None = None) -> Vram:
    """What may be done with the memory of `device` outside ComfyUI: `reserve_gib` GiB of it are left to others, by
    itself `usual_reserve`. Raises `BadOptionError` for a reserve that is no amount, or all that the device has."""
    backend = backend_of(device)
    memory = backend.memory(device) if backend else None
    total = memory.total if memory else None
    reserve = usual_reserve(device.type, total) if reserve_gib is None else asked_reserve(reserve_gib, total)
    return Vram(device, _state(backend), reserve)


def _state(backend: Backend | None) -> VramState:
    if backend is None or backend.own_memory:
        return "normal"
    return "disabled" if backend.kind == "cpu" else "shared"
