"""Drivers of devices that this machine has not: what torch has a module for, with the answers that a test gives."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch

MIB, GIB = 1 << 20, 1 << 30
PLACES = {"CUDA": "cuda", "ROCm": "cuda", "XPU": "xpu", "NPU": "npu", "MLU": "mlu", "MPS": "mps", "CPU": "cpu"}
"""Where in torch the module of a backend is."""
WITH_ALLOCATOR = ("CUDA", "ROCm", "XPU", "NPU", "MLU")


def driver(**answers: Any) -> SimpleNamespace:
    """A module whose functions give these answers, whatever they are asked about; an exception is raised."""

    def function(answer: Any):
        def answering(*about: object) -> Any:
            if isinstance(answer, BaseException):
                raise answer
            return answer(*about) if callable(answer) else answer

        return answering

    return SimpleNamespace(**{name: function(answer) for name, answer in answers.items()})


def usual_driver(**answers: Any) -> SimpleNamespace:
    """Of a device with 8 GiB: 5 are free, and torch holds 2, of which it uses one and a half."""
    usual = {
        "is_available": True,
        "mem_get_info": (5 * GIB, 8 * GIB),
        "memory_reserved": 2 * GIB,
        "memory_allocated": 2 * GIB - 512 * MIB,
        "max_memory_allocated": 1800 * MIB,
    }
    return driver(**usual | answers)


def metal(**answers: Any) -> SimpleNamespace:
    """Of an Apple GPU that may take 10 GiB: it has 3, and torch uses 2 of them."""
    usual = {
        "is_available": True,
        "recommended_max_memory": 10 * GIB,
        "driver_allocated_memory": 3 * GIB,
        "current_allocated_memory": 2 * GIB,
    }
    return driver(**usual | answers)


def install(monkeypatch: pytest.MonkeyPatch, backend: str, module: Any) -> torch.device:
    """Put `module` where the table looks for the backend's; gives one of its devices, if only a stand-in."""
    monkeypatch.setattr(torch.version, "hip", "6.4" if backend == "ROCm" else None)
    if backend == "DirectML":
        monkeypatch.setitem(sys.modules, "torch_directml", module)
    else:
        monkeypatch.setattr(torch, PLACES[backend], module, raising=False)
    return device("privateuseone" if backend == "DirectML" else PLACES[backend])


def device(kind: str) -> torch.device:
    """torch itself makes no device of a kind that it was not told of."""
    return SimpleNamespace(type=kind, index=0)  # type: ignore[return-value]
