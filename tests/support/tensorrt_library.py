"""What our engine asks of TensorRT, answered without it: a stand-in of its Python module, on the CPU.

The engine it "builds" doubles every pixel; its plan is JSON. What was asked is in `asked`.
"""

from __future__ import annotations

import ctypes
import json
import sys
from contextlib import nullcontext
from enum import Enum, IntEnum
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from cudaspeed.backends import packages

STREAM = 7777
CARD, CAPABILITY = "NVIDIA GeForce RTX 4090", (8, 9)
SCALE = 2


class Library(ModuleType):
    """The module, as `tensorrt` or `tensorrt_rtx`."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.rtx = name == "tensorrt_rtx"
        self.asked: dict[str, Any] = {"profiles": [], "flags": [], "executed": [], "contexts": []}
        self.complaints: list[tuple[str, str]] = []  # (operation, what the parser says)
        self.builds = self.loads = self.computes = True
        self.timings_known: bytes | None = None
        self.timings_fit = True
        for kind in (Builder, OnnxParser, Runtime):
            setattr(self, kind.__name__, lambda *arguments, kind=kind: kind(self, *arguments))
        self.ILogger = ILogger
        self.NetworkDefinitionCreationFlag = IntEnum("NetworkDefinitionCreationFlag", {"STRONGLY_TYPED": 1})
        self.BuilderFlag = Enum("BuilderFlag", ["TF32"])
        self.ComputeCapability = Enum("ComputeCapability", ["CURRENT"])
        self.ExecutionContextAllocationStrategy = Enum("Strategy", ["STATIC", "USER_MANAGED"])


class ILogger:
    Severity = Enum("Severity", ["INTERNAL_ERROR", "ERROR", "WARNING"])

    def log(self, severity: Any, text: str) -> None:
        raise NotImplementedError


class Builder:
    def __init__(self, library: Library, log: ILogger) -> None:
        self._library, self._log = library, log

    def create_network(self, flags: int) -> SimpleNamespace:
        self._library.asked["network"] = flags
        return SimpleNamespace()

    def create_builder_config(self) -> BuilderConfig:
        return BuilderConfig(self._library)

    def create_optimization_profile(self) -> SimpleNamespace:
        profile = SimpleNamespace(boxes={})
        profile.set_shape = lambda name, *shapes: profile.boxes.update({name: shapes})
        return profile

    def build_serialized_network(self, network: Any, how: BuilderConfig) -> bytes | None:
        if not self._library.builds:
            self._log.log(ILogger.Severity.WARNING, "never mind")
            self._log.log(ILogger.Severity.ERROR, "no kernel\n was found")
            return None
        if how.timings is not None:
            how.timings.content += b"|timed"
        return json.dumps({"scale": SCALE}).encode()


class BuilderConfig:
    def __init__(self, library: Library) -> None:
        self._library = library
        self.timings: Any = None
        self.num_compute_capabilities = 0

    def clear_flag(self, flag: Any) -> None:
        self._library.asked["flags"].append(flag.name)

    def add_optimization_profile(self, profile: Any) -> int:
        self._library.asked["profiles"].append(profile.boxes)
        return len(self._library.asked["profiles"]) - 1

    def set_compute_capability(self, capability: Any, number: int) -> None:
        self._library.asked["for"] = (self.num_compute_capabilities, number, capability.name)

    def create_timing_cache(self, content: bytes) -> SimpleNamespace:
        cache = SimpleNamespace(content=content)
        cache.serialize = lambda: cache.content
        return cache

    def set_timing_cache(self, cache: Any, ignore_mismatch: bool) -> bool:
        assert not ignore_mismatch, "other cards' timings are none of ours"
        if cache.content and not self._library.timings_fit:
            return False
        self._library.timings_known, self.timings = cache.content, cache
        return True

    def get_timing_cache(self) -> Any:
        return self.timings


class OnnxParser:
    def __init__(self, library: Library, network: Any, log: ILogger) -> None:
        self._library = library

    @property
    def num_errors(self) -> int:
        return len(self._library.complaints)

    def parse_from_file(self, path: str) -> bool:
        self._library.asked["parsed"] = path
        return not self._library.complaints

    def get_error(self, number: int) -> SimpleNamespace:
        operation, text = self._library.complaints[number]
        return SimpleNamespace(node_operator=lambda: operation, desc=lambda: text)


class Runtime:
    def __init__(self, library: Library, log: ILogger) -> None:
        self._library, self._log = library, log

    def deserialize_cuda_engine(self, plan: bytes) -> Engine | None:
        if not self._library.loads:
            self._log.log(ILogger.Severity.ERROR, "magic tag does not match")
            return None
        return Engine(self._library, json.loads(plan)["scale"])


class Engine:
    def __init__(self, library: Library, scale: int) -> None:
        self._library, self.scale = library, scale

    def create_runtime_config(self) -> RuntimeConfig:
        assert self._library.rtx, "older TensorRTs have none"
        return RuntimeConfig()

    def create_execution_context(self, how: Any) -> Context:
        strategy = how.strategy if isinstance(how, RuntimeConfig) else how
        cache = how.cache if isinstance(how, RuntimeConfig) else None
        context = Context(self._library, self.scale, cache)
        self._library.asked["contexts"].append(strategy.name)
        return context


class RuntimeConfig:
    strategy: Any = None
    cache: Any = None

    def set_execution_context_allocation_strategy(self, strategy: Any) -> None:
        self.strategy = strategy

    def create_runtime_cache(self) -> SimpleNamespace:
        cache = SimpleNamespace(content=b"")
        cache.serialize = lambda: cache.content
        cache.deserialize = lambda content: setattr(cache, "content", content)
        return cache

    def set_runtime_cache(self, cache: Any) -> None:
        self.cache = cache


class Context:
    def __init__(self, library: Library, scale: int, cache: Any) -> None:
        self._library, self._scale, self._cache = library, scale, cache
        self._addresses: dict[str, int] = {}
        self._shape: tuple[int, ...] = ()

    def set_optimization_profile_async(self, number: int, stream: int) -> bool:
        self._profile = number
        return stream == STREAM

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self._shape = shape
        return True

    def update_device_memory_size_for_shapes(self) -> int:
        return 1000

    def set_device_memory(self, address: int, size: int) -> None:
        self._working = address, size

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        count, channels, height, width = self._shape
        return count, channels, height * self._scale, width * self._scale

    def set_tensor_address(self, name: str, address: int) -> bool:
        assert address % 64 == 0, "TensorRT takes no other; on a card 256, which no main memory of torch's has"
        self._addresses[name] = address
        return True

    def execute_async_v3(self, stream: int) -> bool:
        self._library.asked["executed"].append((self._profile, self._shape, stream, self._working[1]))
        if not self._library.computes:
            return False
        if self._cache is not None and not self._cache.content:
            self._cache.content = b"kernels"
        x = _at(self._addresses["x"], self._shape)
        _at(self._addresses["y"], self.get_tensor_shape("y")).copy_(
            x.repeat_interleave(self._scale, 2).repeat_interleave(self._scale, 3)
        )
        return True


def _at(address: int, shape: tuple[int, ...]) -> torch.Tensor:
    """The floats that lie there."""
    count = torch.Size(shape).numel()
    return torch.frombuffer((ctypes.c_float * count).from_address(address), dtype=torch.float32).view(shape)


def install(monkeypatch: pytest.MonkeyPatch, name: str = "tensorrt", version: str = "11.4.0") -> Library:
    """A card, and TensorRT under this name and version, until the test is over."""
    library = Library(name)
    monkeypatch.setitem(sys.modules, name, library)
    there = {name.replace("_", "-"): version, "onnxscript": "0.7"}
    monkeypatch.setattr(packages, "installed_version", lambda distribution: there.get(distribution, ""))
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext())
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: SimpleNamespace(cuda_stream=STREAM))
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: CARD)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: CAPABILITY)
    return library
