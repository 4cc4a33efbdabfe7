"""The host's face without a host: for the command line, the tests and anyone's own script."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from .contracts import BadOptionError, Resident, first_line
from .memory import free_device_bytes, is_out_of_memory


class StandaloneContext:
    """A `contracts.RunContext` on one torch device; results come back to main memory as float32.

    `device` is "auto" (the first CUDA, XPU or MPS device, else the CPU) or a torch device's name. `on_progress(done,
    total)` is called after every tile batch, `on_say(text)` with what is going on besides. Raises `BadOptionError` for
    a device that this machine does not have.
    """

    output_device = torch.device("cpu")
    output_dtype = torch.float32

    def __init__(
        self,
        device: str = "auto",
        on_progress: Callable[[int, int], None] | None = None,
        on_say: Callable[[str], None] | None = None,
    ) -> None:
        self.device = _find_device(device)
        self.cache_folder = compiled_folder()
        self._on_progress, self._on_say = on_progress, on_say
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)

    def make_resident(self, model: Resident, bytes_wanted: int) -> None:
        model.module.to(self.device)

    def free_bytes(self) -> int:
        return free_device_bytes(self.device)

    def peak_bytes(self) -> int | None:
        return torch.cuda.max_memory_allocated(self.device) if self.device.type == "cuda" else None

    def release_cached(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def is_out_of_memory(self, error: BaseException) -> bool:
        return is_out_of_memory(error)

    def progress(self, done: int, total: int) -> None:
        if self._on_progress:
            self._on_progress(done, total)

    def say(self, text: str) -> None:
        if self._on_say:
            self._on_say(text)

    def raise_if_interrupted(self) -> None:
        """Ctrl-C raises by itself."""


def compiled_folder() -> Path:
    """Where compiled models are kept: `CUDASPEED_CACHE_DIR`, else a folder of ours in the platform's for caches."""
    asked = os.environ.get("CUDASPEED_CACHE_DIR")
    if asked:
        return Path(asked).absolute()
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "cudaspeed" / "compiled"


def _find_device(name: str) -> torch.device:
    if name == "auto":
        found = torch.accelerator.current_accelerator(check_available=True) if hasattr(torch, "accelerator") else None
        if found is None and torch.cuda.is_available():
            found = torch.device("cuda")
        return found or torch.device("cpu")
    try:
        device = torch.device(name)
        if device.type == "meta":
            raise RuntimeError("it holds no values")
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise BadOptionError(
            f"device is {name!r}, which this machine does not offer ({first_line(error)}); try auto or cpu"
        ) from error
    return device
