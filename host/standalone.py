"""Nobody but us: one torch device, and callbacks."""

from __future__ import annotations

import gc
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from ..api.context import Resident, RunContext, Switches
from ..devices.backends import backend_of, has_own_memory
from ..devices.engine_names import is_an_engines
from ..devices.named import devices_named
from ..devices.vram import vram_of
from ..memory import free_device_bytes, free_or_assumed_bytes, is_out_of_memory
from ..storage.location import compiled_folder


class StandaloneContext:
    """A `RunContext` on one torch device; results come back to main memory as float32.

    `device` is "auto" (the first CUDA, ROCm, XPU, NPU, MLU or MPS device, else the CPU), a torch device's name, or
    "openvino:GPU", "tpu", "xla": an engine's, which computes what torch has on the CPU. Several that share the work are
    named as `devices_named` takes them: "cuda:0,cuda:1", "all".
    `on_progress(done, total)` is called after every tile batch, and during a long one with parts of tiles;
    `on_say(text)` in a run of more than a second, with what is going on. Both may be called on another thread, one at a
    time. So many GB as `reserve_vram` are left of the device's memory to other programs; by itself 0.4, on Windows 0.6
    or more. Raises `BadOptionError` for a device that this machine does not have, and for a reserve that is none.
    """

    output_device = torch.device("cpu")
    output_dtype = torch.float32
    switches = Switches()
    looked_at = texts_stay = False
    alone = True

    def __init__(
        self,
        device: str = "auto",
        on_progress: Callable[[float, int], None] | None = None,
        on_say: Callable[[str], None] | None = None,
        reserve_vram: float | None = None,
    ) -> None:
        if is_an_engines(device):
            self.switches, device = Switches(engine=device), "cpu"
        self.device, *others = devices_named(device)
        self.peers: tuple[RunContext, ...] = tuple(
            StandaloneContext(str(other), reserve_vram=reserve_vram) for other in others
        )
        self.vram = vram_of(self.device, reserve_vram)
        self.cache_folder = compiled_folder()
        self._on_progress, self._on_say = on_progress, on_say
        self._backend = backend_of(self.device)
        if self._backend:
            self._backend.forget_peak(self.device)

    def make_resident(self, model: Resident, bytes_wanted: int) -> None:
        place = torch.empty(0, device=self.device).device  # "cuda" is the present one
        if model.residence != place:  # to look whether all of it is there takes milliseconds for deep models
            model.residence = None  # while it is neither here nor there
            model.module.to(place)
            model.residence = place

    def take_away(self, model: Resident) -> None:
        if model.residence is not None:
            model.residence = None
            model.module.to(self.vram.offload_device)

    def room_beside(self, model: Resident, needed: int) -> int | None:
        """Nobody makes way here."""
        free = free_device_bytes(self.device) if has_own_memory(self.device) else None
        return None if free is None else max(0, free - self.vram.reserve)

    def free_bytes(self) -> int:
        return max(0, free_or_assumed_bytes(self.device) - self.vram.reserve)

    def peak_bytes(self) -> int | None:
        return self._backend.peak_bytes(self.device) if self._backend else None

    def release_cached(self) -> None:
        gc.collect()  # what is dead, but for references among itself, may hold tensors
        if self._backend:
            self._backend.release_cached()

    def is_out_of_memory(self, error: BaseException) -> bool:
        return is_out_of_memory(error)

    def progress(self, done: float, total: int) -> None:
        if self._on_progress:
            self._on_progress(done, total)

    def say(self, text: str) -> None:
        if self._on_say:
            self._on_say(text)

    def show(self, picture: NDArray[np.uint8]) -> None:
        """Nobody looks."""

    def raise_if_interrupted(self) -> None:
        """Ctrl-C raises by itself."""
