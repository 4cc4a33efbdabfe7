"""The table of backends: one row for every kind of device, with all that differs from kind to kind about its memory
and its number types.

Nothing is imported for a row. torch brings CUDA's, ROCm's, XPU's, MPS's and the CPU's; the packages of Ascend's NPUs
and of Cambricon's MLUs put theirs into torch when torch or the user loads them; torch-directml counts where the user
has imported it. What a device does beside copying is not here, but in `pipeline/streams.py`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from . import precisions, reading
from .reading import DeviceMemory, answer, bytes_told


@dataclass(frozen=True)
class Backend:
    """A kind of device.

    `kind` is what torch calls it ("cuda"); CUDA and ROCm share theirs, and torch is built for one of them. `interface`
    finds the module that torch has for it (`torch.cuda`), None where it has none. `read_memory` and `read_precisions`
    ask that module about a device. `words` are what errors that tell of a lack of memory contain, in small letters,
    where they do not say "out of memory".
    """

    name: str
    kind: str
    interface: Callable[[], Any]
    read_memory: Callable[[Any, torch.device], DeviceMemory | None]
    read_precisions: Callable[[Any, torch.device], precisions.Precisions]
    words: tuple[str, ...] = ()
    automatic: bool = True
    """Whether "auto" takes it where it is there."""
    own_memory: bool = True
    """Whether it has memory beside the machine's main memory."""

    def is_there(self) -> bool:
        """Whether this machine has such a device, and torch can use it."""
        return answer(lambda: self.interface().is_available()) is True

    def devices(self) -> list[torch.device]:
        """Those of this machine; none where it is not there."""
        if not self.is_there():
            return []
        if not self.own_memory:
            return [torch.device(self.kind)]  # of which there is one
        return [torch.device(self.kind, index) for index in range(answer(lambda: self.interface().device_count()) or 0)]

    def memory(self, device: torch.device) -> DeviceMemory | None:
        """What `device` has; None where nothing tells."""
        return answer(lambda: self.read_memory(self.interface(), device))

    def fast_precisions(self, device: torch.device) -> precisions.Precisions:
        """The half precisions in which `device` computes natively and fast, best first."""
        return answer(lambda: self.read_precisions(self.interface(), device)) or ()

    def peak_bytes(self, device: torch.device) -> int | None:
        """The most bytes that this process's tensors had on `device` at once since `forget_peak`; None where torch does
        not count them."""
        return bytes_told(lambda: self.interface().max_memory_allocated(device))

    def forget_peak(self, device: torch.device) -> None:
        """Begin to count anew, where torch counts."""
        answer(lambda: self.interface().reset_peak_memory_stats(device))

    def release_cached(self) -> None:
        """Give the driver back what torch holds of all devices of the kind without using it, where it holds any."""
        answer(lambda: self.interface().empty_cache())


# In the order in which "auto" looks for them; not DirectML, which is slow and of which nothing tells how full it is.
BACKENDS = (
    Backend(
        "CUDA",
        "cuda",
        lambda: None if torch.version.hip else torch.cuda,
        reading.by_allocator,
        precisions.of_nvidia,
        words=("cublas_status_alloc_failed", "cudnn_status_alloc_failed"),
    ),
    Backend(
        "ROCm",
        "cuda",
        lambda: torch.cuda if torch.version.hip else None,
        reading.by_allocator,
        precisions.of_amd,
        words=("hipblas_status_alloc_failed", "rocblas_status_memory_error", "miopenstatusallocfailed"),
    ),
    Backend(
        "XPU",
        "xpu",
        lambda: torch.xpu,
        reading.by_allocator,
        precisions.of_intel,
        # of the Unified Runtime, and of the plug-ins before it, which had one name for several
        words=("out_of_device_memory", "out_of_host_memory", "pi_error_out_of_resources"),
    ),
    Backend("NPU", "npu", lambda: getattr(torch, "npu", None), reading.by_allocator, precisions.of_ascend),
    Backend("MLU", "mlu", lambda: getattr(torch, "mlu", None), reading.by_allocator, precisions.of_cambricon),
    Backend(
        "MPS",
        "mps",
        lambda: torch.mps,
        reading.of_metal,
        precisions.of_apple,
        words=("invalid buffer size",),  # larger than what Metal gives in one piece
        own_memory=False,
    ),
    Backend(
        "DirectML",
        "privateuseone",
        lambda: sys.modules.get("torch_directml"),
        reading.untold,
        precisions.of_directml,
        words=("not enough gpu video memory",),
        automatic=False,
    ),
    Backend(
        "CPU",
        "cpu",
        lambda: torch.cpu,
        reading.of_processor,
        precisions.of_processor,
        # Linux and macOS, Windows, C++
        words=("can't allocate memory", "not enough memory", "bad_alloc"),
        own_memory=False,
    ),
)

_BY_KIND = {kind: [backend for backend in BACKENDS if backend.kind == kind] for kind in {row.kind for row in BACKENDS}}


def backend_of(device: torch.device) -> Backend | None:
    """The row of `device`; None for a kind that has none, or whose package is not loaded."""
    rows = _BY_KIND.get(device.type, ())
    return next((backend for backend in rows if backend.interface() is not None), None)


def has_own_memory(device: torch.device) -> bool:
    """Whether `device` has memory beside the machine's main memory; a kind of which nothing is known has."""
    backend = backend_of(device)
    return backend is None or backend.own_memory


def automatic_kind() -> str:
    """The kind of device that "auto" takes: of those that are there, the first one of the table."""
    return next(backend.kind for backend in BACKENDS if backend.automatic and backend.is_there())
